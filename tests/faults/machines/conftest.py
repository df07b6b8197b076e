"""The application on machines of its own."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID

import pytest

from tests import invariants
from tests.faults.machines.cluster import MACHINES, Cluster
from tests.faults.machines.network import HUB, laid
from tests.integration.gates import gate_of
from tests.integration.stack import TimeIsOver, until
from tests.postgresql import running_server


@pytest.fixture(scope="module")
def whole_cluster() -> Iterator[Cluster]:
    """Everything running; in the end the ledger is sound, and nothing is left on any machine."""
    if os.geteuid() != 0:
        pytest.skip("only root may make network namespaces")
    with ExitStack() as holding:
        network = holding.enter_context(laid(*MACHINES))
        server = holding.enter_context(running_server(network.hub, network.entering(HUB)))
        folder = Path(holding.enter_context(tempfile.TemporaryDirectory(prefix="sluice-")))
        url = server.fresh_database()
        cluster = Cluster(folder, url, "redis-server", network=network)
        cluster.data.mkdir()
        cluster.migrate()
        cluster.open_ledger()
        try:
            cluster.start("broker", "s3")
            cluster.make_bucket()
            cluster.start("web", *MACHINES, "beat")
            try:
                until(cluster.ready, "the cluster is ready", 60)
            except TimeIsOver as late:
                pytest.fail(f"{late}\n{cluster.last_words()}", pytrace=False)
            yield cluster
            until(cluster.is_idle, "every job has ended", 30)
            with cluster.ledger() as session:
                assert invariants.broken(session) == []
        finally:
            left = cluster.stop()
            cluster.close_ledger()
        assert left == []
        for machine in MACHINES:
            assert list((cluster.data / machine / "work/jobs").glob("*")) == []


@pytest.fixture
def cluster(whole_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with every machine joined and every program running, also after the test."""
    yield whole_cluster
    for machine in MACHINES:
        whole_cluster.network.mend(machine)
    ended = whole_cluster.ended()
    by_themselves = ended - whole_cluster.meant_to_end
    whole_cluster.start(*ended)
    until(whole_cluster.ready, "the cluster is ready again", 60)
    assert not by_themselves


@pytest.fixture
def gate(cluster: Cluster, signs: Path) -> Callable[..., UUID]:
    return gate_of(cluster, signs)
