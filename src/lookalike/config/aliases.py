"""Names of settings in other programs, papers and Alibaba PAI's component: for messages."""

from __future__ import annotations

from difflib import get_close_matches

_NAMES = {
    "optim.lr": "learning_rate initial_learning_rate base_lr initial_lr init_lr lr0 max_lr lr_rate",
    "optim.min_lr": "lr_min final_lr end_lr eta_min",
    "optim.weight_decay": "wd l2 l2_reg weightdecay",
    "optim.momentum": "beta1 mom",
    "optim.name": "optimizer opt optimiser optimizer_name solver",
    "optim.schedule": "scheduler lr_scheduler lr_schedule sched lr_policy lr_decay",
    "optim.warmup_steps": "warmup warmup_iters warmup_epochs warmup_ratio num_warmup_steps",
    "optim.clip_grad_norm": "clip clip_grad grad_clip max_grad_norm gradient_clip_val clip_norm",
    "optim.backbone_lr_factor": "backbone_lr lr_backbone lr_mult",
    "head.lr_factor": "head_lr lr_head",
    "head.parallel": "model_parallel parallel_mode metric_learning_model_type",
    "head.sample_rate": "sampling_rate negative_sampling",
    "head.centres": "centers sub_centers subcenters k_centers num_centers",
    "train.batch_size": "bs batch batchsize train_batch_size per_device_train_batch_size"
    " training_batch_size samples_per_gpu",
    "train.epochs": "epoch num_epochs max_epochs n_epochs num_train_epochs nb_epochs"
    " total_training_epochs total_epochs",
    "train.max_steps": "steps max_iter max_iters iterations num_steps max_train_steps iters",
    "train.precision": "amp fp16 bf16 mixed_precision half use_amp dtype enable_half_precision"
    " half_precision",
    "train.seed": "random_seed manual_seed rng_seed",
    "train.ema": "ema_decay model_ema use_ema",
    "train.eval_every": "eval_freq eval_interval val_interval val_every eval_steps valid_freq",
    "train.log_every": "log_interval log_freq print_freq logging_steps log_steps",
    "train.checkpoint_every": "save_every save_freq save_interval save_epochs checkpoint_freq"
    " checkpoint_interval checkpoint_saving_frequency",
    "train.keep_checkpoints": "save_total_limit max_checkpoints keep_last save_top_k",
    "train.start_from": "finetune finetune_from init_from warm_start",
    "train.freeze_backbone": "freeze frozen",
    "train.average_last": "swa",
    "model.gradient_checkpointing": "grad_checkpointing activation_checkpointing",
    "model.lora_rank": "lora lora_r",
    "optim.layer_decay": "llrd layer_lr_decay layerwise_lr_decay layer_wise_lr_decay",
    "train.sync_batchnorm": "sync_bn syncbn",
    "train.freeze_batchnorm": "freeze_bn bn_freeze",
    "train.compile": "torch_compile",
    "model.backbone": "arch architecture model_name net network encoder backbone_name"
    " backbone_type metric_learning_backbone model_arch",
    "model.pretrained": "weights pretrained_weights pretrained_path pretrain checkpoint_path"
    " init_weights path_of_the_pre_trained_model pretrained_model",
    "model.image_size": "img_size imgsz input_size resolution size crop_size image_resize_size"
    " img_resolution resize",
    "model.backbone_dim": "backbone_output_feature_dimension in_features",
    "model.embedding_dim": "embedding_size emb_dim embed_dim feat_dim feature_dim dim out_dim"
    " embedding_dimension feature_output_dimension num_features emb_size",
    "model.pooling": "pool pool_type pooling_type global_pool",
    "loss.name": "loss_type loss_fn criterion loss_function margin_type head_type loss_name",
    "loss.margin": "m loss_margin arc_margin",
    "loss.scale": "s loss_scale arc_scale temperature loss_function_scale_and_margin",
    "loss.weight": "loss_weight loss_function_weight",
    "loss.memory": "xbm memory_size queue_size cross_batch_memory memory_bank",
    "loss.label_smoothing": "smoothing ls",
    "data.train": "train_list train_path train_file train_data train_dir dataset data_dir"
    " data_path train_csv train_annotation training_annotation_file_path annotations",
    "data.val": "val_list val_path val_file val_data val_dir valid validation validation_data"
    " eval_data test_list val_csv validation_annotation_file_path",
    "data.classes": "class_names names class_list file_of_class_name_list",
    "data.num_classes": "num_class nb_classes n_classes number_of_training_classes nclasses",
    "data.format": "data_format data_source_format dataset_type data_source_type",
    "data.image_root": "image_dir img_dir image_folder images_dir img_root data_root root",
    "data.path_column": "image_column path_col image_col x_col",
    "data.label_column": "label_col target_column class_column y_col",
    "data.label_separator": "label_sep label_delimiter multi_label_separator",
    "data.hierarchy": "taxonomy coarse_labels super_class super_class_column",
    "data.weights": "weight_column weights_column sample_weights class_weights class_weight",
    "data.threads": "num_workers n_workers dataloader_workers training_data_read_threads"
    " workers_per_gpu cpu_workers read_threads",
    "data.images_per_class": "num_instances images_per_id instances_per_class samples_per_class",
    "data.flip": "hflip flip_prob horizontal_flip",
    "data.color_jitter": "jitter colour_jitter",
    "data.augment": "augmentation augmentations aug transforms auto_augment",
    "data.val_fraction": "val_split_ratio val_ratio validation_split test_size",
    "run.output": "out output_dir save_dir work_dir outdir log_dir out_dir save_path model_dir"
    " oss_directory_for_training_output project",
    "run.workers": "gpus num_gpus n_gpus nproc nproc_per_node world_size devices ngpus",
    "run.device": "gpu cuda accelerator",
}


def plain(text: str) -> str:
    """Letters and digits alone, in lower case: `AM-Softmax` and `am_softmax` are `amsoftmax`."""
    return "".join(filter(str.isalnum, text.lower()))


_KEYS = {plain(name): key for key, names in _NAMES.items() for name in names.split()}


def key_called(name: str, likeness: float = 1.0) -> str | None:
    """The dotted key of a setting by another usual name in any spelling; None for no match.

    Args:
        likeness: the least ratio of `difflib`.
    """
    close = get_close_matches(plain(name), _KEYS, 1, likeness)
    return _KEYS[close[0]] if close else None
