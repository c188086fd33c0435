"""A server of Qdrant's gRPC protocol for tests and benchmarks: Qdrant's own engine behind it.

The package `qdrant-edge-py` holds the engine (storage with a write-ahead log, HNSW, filters),
without a server; the client's package holds the protocol. Only what the store sends is answered.

    python qdrant_server.py FOLDER     # prints its port; SIGUSR1 builds HNSW, SIGTERM ends it
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import qdrant_edge as edge
from qdrant_client import grpc as messages
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc
from qdrant_client.grpc import collections_service_pb2_grpc as collections_grpc
from qdrant_client.grpc import points_service_pb2_grpc as points_grpc
from qdrant_client.http import models

INDEXED_KB = 10_000  # as Qdrant's default


class QdrantServer:
    """Collections below a folder, served until `close`.

    Attributes:
        port: that it listens on, of this machine.
        fail: a status with which every call is answered; None for true answers.
    """

    def __init__(self, folder: Path, key: str | None = None, port: int = 0) -> None:
        self.folder, self.key, self.fail = folder, key, None
        self.shards: dict[str, edge.EdgeShard] = {}
        self.creating = threading.Lock()
        for about in folder.glob("*/about.json"):
            self.shards[about.parent.name] = edge.EdgeShard.load(str(about.parent / "shard"))
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
        self._server = grpc.server(
            futures.ThreadPoolExecutor(4), interceptors=[_Gate(self)], options=unlimited
        )
        collections_grpc.add_CollectionsServicer_to_server(_Collections(self), self._server)
        points_grpc.add_PointsServicer_to_server(_Points(self), self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def create(self, name: str, size: int, m: int | None, metadata: dict[str, Any]) -> None:
        """A collection of unit vectors."""
        place = self.folder / name
        (place / "shard").mkdir(parents=True)
        hnsw = edge.HnswIndexConfig(16 if m is None else m, 100, INDEXED_KB)
        config = edge.EdgeConfig(
            vectors=edge.EdgeVectorParams(size, edge.Distance.Cosine),
            hnsw_config=hnsw,
            optimizers=edge.EdgeOptimizersConfig(indexing_threshold=INDEXED_KB),
        )
        self.shards[name] = edge.EdgeShard.create(str(place / "shard"), config)
        (place / "about.json").write_text(json.dumps({"size": size, "metadata": metadata}))

    def shard(self, name: str, context: grpc.ServicerContext) -> edge.EdgeShard:
        if name not in self.shards:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Collection `{name}` doesn't exist!")
        return self.shards[name]

    def optimize(self) -> None:
        """Build HNSW of all collections, as Qdrant's server does by itself."""
        for shard in self.shards.values():
            shard.optimize()

    def wait(self) -> None:
        self._server.wait_for_termination()

    def close(self) -> None:
        self._server.stop(0).wait()
        for shard in self.shards.values():
            shard.close()

    def __enter__(self) -> QdrantServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Gate(grpc.ServerInterceptor):
    """Refuses another key."""

    def __init__(self, server: QdrantServer) -> None:
        self.server = server

    def intercept_service(self, continuation, details):
        if self.server.fail is not None:
            return _refusal(self.server.fail, "as the test wants it")
        if self.server.key is not None:
            shown = dict(details.invocation_metadata).get("api-key")
            if shown != self.server.key:
                return _refusal(grpc.StatusCode.UNAUTHENTICATED, "Invalid API key or JWT")
        return continuation(details)


def _refusal(code, text):
    def refuse(request, context):
        context.abort(code, text)

    return grpc.unary_unary_rpc_method_handler(refuse)


class _Collections(collections_grpc.CollectionsServicer):
    def __init__(self, server: QdrantServer) -> None:
        self.server = server

    def CollectionExists(self, request, context):
        there = request.collection_name in self.server.shards
        return messages.CollectionExistsResponse(result=messages.CollectionExists(exists=there))

    def Create(self, request, context):
        params = request.vectors_config.params
        m = request.hnsw_config.m if request.HasField("hnsw_config") else None
        metadata = GrpcToRest.convert_payload(request.metadata)
        with self.server.creating:
            if request.collection_name in self.server.shards:
                context.abort(grpc.StatusCode.ALREADY_EXISTS, "Collection already exists!")
            self.server.create(request.collection_name, params.size, m, metadata)
        return messages.CollectionOperationResponse(result=True)

    def Delete(self, request, context):
        with self.server.creating:
            self.server.shards.pop(request.collection_name).close()
            shutil.rmtree(self.server.folder / request.collection_name)
        return messages.CollectionOperationResponse(result=True)

    def Get(self, request, context):
        shard = self.server.shard(request.collection_name, context)
        about = json.loads(
            (self.server.folder / request.collection_name / "about.json").read_text()
        )
        vectors = models.VectorParams(size=about["size"], distance=models.Distance.COSINE)
        info = models.CollectionInfo(
            status=models.CollectionStatus.GREEN,
            optimizer_status=models.OptimizersStatusOneOf.OK,
            segments_count=shard.info().segments_count,
            points_count=shard.info().points_count,
            indexed_vectors_count=shard.info().indexed_vectors_count,
            config=models.CollectionConfig(
                params=models.CollectionParams(vectors=vectors),
                hnsw_config=models.HnswConfig(m=16, ef_construct=100, full_scan_threshold=10000),
                optimizer_config=models.OptimizersConfig(
                    deleted_threshold=0.2,
                    vacuum_min_vector_number=1000,
                    default_segment_number=0,
                    flush_interval_sec=5,
                ),
                wal_config=models.WalConfig(wal_capacity_mb=32, wal_segments_ahead=0),
                metadata=about["metadata"],
            ),
            payload_schema={},
        )
        return messages.GetCollectionInfoResponse(result=RestToGrpc.convert_collection_info(info))


class _Points(points_grpc.PointsServicer):
    def __init__(self, server: QdrantServer) -> None:
        self.server = server

    def CreateFieldIndex(self, request, context):
        operation = edge.UpdateOperation.create_field_index(
            request.field_name, edge.PayloadSchemaType.Keyword
        )
        self.server.shard(request.collection_name, context).update(operation)
        return _done()

    def Upsert(self, request, context):
        shard = self.server.shard(request.collection_name, context)
        points = [
            edge.Point(
                point.id.uuid,
                list(point.vectors.vector.dense.data or point.vectors.vector.data),
                GrpcToRest.convert_payload(point.payload),
            )
            for point in request.points
        ]
        shard.update(edge.UpdateOperation.upsert_points(points))
        return _done()

    def Delete(self, request, context):
        ids = [one.uuid for one in request.points.points.ids]
        shard = self.server.shard(request.collection_name, context)
        shard.update(edge.UpdateOperation.delete_points(ids))
        return _done()

    def Count(self, request, context):
        shard = self.server.shard(request.collection_name, context)
        count = shard.count(edge.CountRequest(exact=request.exact))
        return messages.CountResponse(result=messages.CountResult(count=count))

    def Get(self, request, context):
        shard = self.server.shard(request.collection_name, context)
        found = shard.retrieve(
            [one.uuid for one in request.ids],
            with_payload=_wanted(request.with_payload),
            with_vector=request.with_vectors.enable,
        )
        return messages.GetResponse(result=map(_record, found))

    def Scroll(self, request, context):
        shard = self.server.shard(request.collection_name, context)
        found, offset = shard.scroll(
            edge.ScrollRequest(
                offset=request.offset.uuid or None,
                limit=request.limit,
                with_payload=_wanted(request.with_payload),
                with_vector=request.with_vectors.enable,
            )
        )
        following = None if offset is None else messages.PointId(uuid=str(offset))
        return messages.ScrollResponse(result=map(_record, found), next_page_offset=following)

    def QueryBatch(self, request, context):
        shard = self.server.shard(request.collection_name, context)
        results = []
        for one in request.query_points:
            chosen = None
            if one.filter.must:
                [condition] = one.filter.must
                labels = list(condition.field.match.keywords.strings)
                field = edge.FieldCondition(condition.field.key, match=edge.MatchAny(labels))
                chosen = edge.Filter(must=[field])
            asked = edge.QueryRequest(
                limit=one.limit,
                query=edge.Query.Nearest(list(one.query.nearest.dense.data)),
                filter=chosen,
                params=edge.SearchParams(hnsw_ef=one.params.hnsw_ef, exact=one.params.exact),
                with_payload=_wanted(one.with_payload),
            )
            points = [
                messages.ScoredPoint(
                    id=messages.PointId(uuid=str(point.id)),
                    score=point.score,
                    payload=RestToGrpc.convert_payload(point.payload or {}),
                )
                for point in shard.query(asked)
            ]
            results.append(messages.BatchResult(result=points))
        return messages.QueryBatchResponse(result=results)


def _done() -> messages.PointsOperationResponse:
    status = messages.UpdateStatus.Completed
    return messages.PointsOperationResponse(result=messages.UpdateResult(status=status))


def _wanted(selector: messages.WithPayloadSelector) -> Any:
    fields = list(selector.include.fields)
    return edge.PayloadSelector.Include(fields) if fields else selector.enable


def _record(record: edge.Record) -> messages.RetrievedPoint:
    found = messages.RetrievedPoint(
        id=messages.PointId(uuid=str(record.id)),
        payload=RestToGrpc.convert_payload(record.payload or {}),
    )
    if record.vector is not None:
        found.vectors.vector.dense.data.extend(record.vector)
    return found


if __name__ == "__main__":
    running = QdrantServer(Path(sys.argv[1]), os.environ.get("QDRANT_API_KEY"))
    signal.signal(signal.SIGUSR1, lambda *_: running.optimize())
    print(running.port, flush=True)
    running.wait()
