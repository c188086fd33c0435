"""Requests that schemathesis makes from the description of the service, valid and not.

LOOKALIKE_REQUESTS=10000 makes so many.
"""

import os
import shutil

import pytest
import schemathesis
from conversation import listening, small_service
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from lookalike.serving.service_limits import ServiceLimits

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]


@pytest.fixture(scope="module")
def operations(model, gallery, tmp_path_factory):
    """The operations of a server that listens, with an index of its own, by their names."""
    folder = tmp_path_factory.mktemp("described") / "index"
    shutil.copytree(gallery, folder)
    service = small_service(model, folder, ServiceLimits(max_pixels=10**6, threads=2))
    with listening(service) as port:
        description = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
        found = (result.ok() for result in description.get_all_operations())
        yield {f"{one.method.upper()} {one.path}": one for one in found}


def test_every_route_is_described(operations):
    assert {
        "POST /v1/embeddings", "POST /v1/search", "POST /v1/index", "DELETE /v1/index/{id}",
        "POST /v2/models/{name}/infer", "GET /v1/models", "GET /metrics", "GET /health/ready",
    } <= set(operations)  # fmt: skip


def test_no_request_is_a_mistake_of_ours(operations):
    wanted, made = int(os.environ.get("LOOKALIKE_REQUESTS", "140")), []
    drawn = [one.as_strategy() for one in operations.values()]
    drawn += [
        one.as_strategy(GenerationMode.NEGATIVE)
        for one in operations.values()
        if one.body or any(one.iter_parameters())
    ]

    @settings(
        max_examples=wanted,
        phases=(Phase.explicit, Phase.generate),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(drawn))
    def check(case):
        made.append(case.call_and_validate(checks=CHECKS, timeout=30).status_code)

    check()
    assert len(made) >= wanted
    assert {200, 422} <= set(made)
