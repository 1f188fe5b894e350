"""What Flower's SecAgg+ costs for the same rows as benchmarks/secagg.py: its own workflow and client mod, in one process.

    python -m venv .venv-peers && .venv-peers/bin/pip install flwr
    .venv-peers/bin/python benchmarks/secagg_flower.py 16,1000000,5,0

Run by an interpreter that has Flower and not by ours: its pinned versions are not ours. Prints one JSON object a row. A site's CPU
is all that its mod does in the four stages, quantisation included, with the training replaced by constant weights; the server's is
what is left of the process time. Bytes up are those of the arrays and records in a site's replies, before Flower's own envelope.
"""

from __future__ import annotations

import copy
import importlib
import json
import logging
import sys
import time
from collections.abc import Iterable
from statistics import median
from types import SimpleNamespace
from typing import Any

import flwr
import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common import Code, FitIns, FitRes, Status, ndarrays_to_parameters
from flwr.server.workflow.secure_aggregation import secaggplus_workflow as workflow
from flwr.supercore.task_identity import TaskIdentity

THRESHOLD = 2 / 3
LAST_SHARED_STAGE = 2
"""Setup and key sharing are stages 0 and 1; sites that drop out do not answer from here on."""


class Peers:
    """The sites, and the network that Flower's workflow sends through; it notes what each of them costs.

    Attributes:
        contexts: what each site's mod remembers, by its node's number.
        lost: nodes that drop out.
        stage: of the four, the one that is under way; -1 before the first.
        cpu: seconds of each site's mod.
        sent: bytes of each site's replies.
        copying: seconds that a network would have taken; on nobody's account.
        errors: what went wrong, one sentence each.
    """

    def __init__(self, sites: int, dropped: int, weights: Any) -> None:
        self._mod = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
        self.contexts = {node: _site_context(node) for node in range(1, sites + 1)}
        self.lost = {1 + index * sites // dropped for index in range(dropped)} if dropped else set()
        self._weights = weights
        self.stage = -1
        self.cpu = dict.fromkeys(self.contexts, 0.0)
        self.sent = dict.fromkeys(self.contexts, 0)
        self.copying = 0.0
        self.errors: list[str] = []

    def send_and_receive(self, messages: Any, timeout: float | None = None) -> list[Message]:  # noqa: ARG002 - Flower's name
        """See Flower's Grid: one stage of the protocol."""
        self.stage += 1
        replies = []
        for original in messages:
            begun = time.process_time()
            message = copy.deepcopy(original)
            self.copying += time.process_time() - begun
            node = message.metadata.dst_node_id
            if node in self.lost and self.stage >= LAST_SHARED_STAGE:
                continue
            message.metadata.__dict__.update(_run_id=1, _src_node_id=0, _message_id=f"{self.stage}-{node}")
            reply = self._answer(message, node)
            if reply is not None:
                replies.append(reply)
        return replies

    def _answer(self, message: Message, node: int) -> Message | None:
        start = time.process_time()
        try:
            reply = self._mod.secaggplus_mod(message, self.contexts[node], self._train)
        except Exception as error:  # noqa: BLE001 - a peer's failure is a result
            self.errors.append(f"stage {self.stage}, site {node}: {type(error).__name__}: {error}"[:200])
            return None
        self.cpu[node] += time.process_time() - start
        self.sent[node] += _size(reply.content)
        reply.metadata.__dict__["_src_node_id"] = node
        return reply

    def _train(self, message: Message, _context: Context) -> Message:
        parameters = ndarrays_to_parameters([self._weights])
        result = FitRes(status=Status(Code.OK, ""), parameters=parameters, num_examples=1, metrics={})
        return Message(self._mod.compat.fitres_to_recorddict(result, keep_input=False), reply_to=message)


class Strategy:
    """What Flower's workflow asks: everybody fits; the mean that comes of it is kept."""

    mean: Any = None

    def __init__(self, nodes: Iterable[int]) -> None:
        self._nodes = tuple(nodes)

    def configure_fit(self, _round: int, start: Any, _clients: Any) -> list[Any]:
        """See Flower's Strategy."""
        return [(SimpleNamespace(node_id=node), FitIns(start, {})) for node in self._nodes]

    def aggregate_fit(self, _round: int, results: Any, _failures: Any) -> tuple[Any, dict[str, Any]]:
        """See Flower's Strategy."""
        self.mean = flwr.common.parameters_to_ndarrays(results[0][1].parameters)[0]
        return results[0][1].parameters, {}


def measure(sites: int, parameters: int, dropped: int) -> dict[str, Any]:
    """One row."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0
    weights = np.full(parameters, 0.01, np.float32)
    peers = Peers(sites, dropped, weights)
    strategy = Strategy(peers.contexts)
    start = time.process_time()
    workflow.SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=THRESHOLD, max_weight=1.0, timeout=1)(
        peers, _server_context(strategy, sites, parameters)
    )
    total = time.process_time() - start
    return {
        "sites": sites,
        "parameters": parameters,
        "dropped": dropped,
        "version": flwr.__version__ if hasattr(flwr, "__version__") else "",
        "site_cpu_s": median(seconds for node, seconds in peers.cpu.items() if node not in peers.lost),
        "server_cpu_s": total - peers.copying - sum(peers.cpu.values()),
        "bytes_up": max(peers.sent.values()),
        "largest_error": float(np.abs(strategy.mean - weights).max()) if strategy.mean is not None else None,
        "errors": peers.errors[:3],
    }


def _site_context(node: int) -> Context:
    return Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})


def _server_context(strategy: Any, sites: int, parameters: int) -> Any:
    state = RecordDict()
    state[workflow.MAIN_CONFIGS_RECORD] = ConfigRecord({workflow.WorkflowKey.CURRENT_ROUND: 1})
    empty = ndarrays_to_parameters([np.zeros(parameters, np.float32)])
    state[workflow.MAIN_PARAMS_RECORD] = workflow.compat.parameters_to_arrayrecord(empty, keep_input=True)
    context = workflow.LegacyContext.__new__(workflow.LegacyContext)
    context.__dict__.update(
        run_id=1,
        node_id=0,
        node_config={},
        state=state,
        run_config={},
        strategy=strategy,
        client_manager=SimpleNamespace(num_available=lambda: sites),
        history=SimpleNamespace(add_metrics_distributed_fit=lambda **_: None),
    )
    return context


def _size(content: RecordDict) -> int:
    arrays = sum(len(array.data) for record in content.array_records.values() for array in record.values())
    return arrays + sum(_value_size(value) for record in content.config_records.values() for value in record.values())


def _value_size(value: Any) -> int:
    if isinstance(value, bytes | str):
        return len(value)
    if isinstance(value, list):
        return sum(_value_size(one) for one in value)
    return 8


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    for row in sys.argv[1:]:
        print(json.dumps(measure(*(int(part) for part in row.split(",")[:3]))), flush=True)
