"""A workflow as the canvas has it: texts of fields, in both directions."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from lookalike.errors import ConfigError
from lookalike.studio.node_form import setting_key, text_of, value_of
from lookalike.workflow.node_kinds import KINDS
from lookalike.workflow.workflow_draft import DraftNode, WorkflowDraft

_Name = Annotated[str, Field(max_length=200)]
_Cell = Annotated[int, Field(ge=0, le=999)]


class _CanvasModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


class CanvasSetting(_CanvasModel):
    """A setting: the key of its field, its path in `with`, its text."""

    key: _Name
    path: Annotated[list[_Name], Field(min_length=1, max_length=2)]
    text: Annotated[str, Field(max_length=100_000)]


class CanvasNode(_CanvasModel):
    """A node."""

    name: _Name
    uses: _Name
    inputs: dict[_Name, _Name] = {}
    settings: Annotated[list[CanvasSetting], Field(max_length=500)] = []
    at: tuple[_Cell, _Cell] | None = None


class CanvasGraph(_CanvasModel):
    """A workflow."""

    nodes: Annotated[list[CanvasNode], Field(max_length=200)] = []
    head: Annotated[str, Field(max_length=20_000)] = ""

    @classmethod
    def of(cls, draft: WorkflowDraft) -> CanvasGraph:
        """The canvas of a draft."""
        nodes = [
            CanvasNode(
                name=node.name,
                uses=node.uses,
                inputs=node.inputs,
                settings=[
                    CanvasSetting(
                        key=setting_key(node.uses, path), path=list(path), text=text_of(value)
                    )
                    for path, value in node.settings.items()
                ],
                at=node.at,
            )
            for node in draft.nodes
        ]
        return cls(nodes=nodes, head=draft.head)

    def draft(self) -> WorkflowDraft:
        """The draft of this canvas; settings without a text are not given.

        Raises:
            ConfigError: a kind of node that there is not, or a head that is no comment.
        """
        if any(line and not line.startswith("#") for line in map(str.strip, self.head.split("\n"))):
            raise ConfigError("head: only comments may stand there")
        nodes = []
        for node in self.nodes:
            if node.uses not in KINDS:
                raise ConfigError(
                    f"{node.name}: uses={node.uses!r} is not one of {', '.join(KINDS)}"
                )
            settings = {
                tuple(each.path): value_of(node.uses, each.key, each.text)
                for each in node.settings
                if each.text.strip()
            }
            nodes.append(DraftNode(node.name, node.uses, dict(node.inputs), settings, node.at))
        return WorkflowDraft(nodes, self.head)
