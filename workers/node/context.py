"""A node's identity and what travels with it: one object, made once, handed down."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from datetime import timedelta

from celery import Celery

from colony.definition import Colony
from colony.doorbell import Doorbells
from colony.pipeline.registry import dump
from colony.settings import Settings
from colony.store import Link, Store
from workers.node.children import Children
from workers.node.drain import Drain
from workers.node.lease import Lease
from workers.node.word import Word


def new_boot() -> str:
    """A token of this boot: a restarted node is another node."""
    return secrets.token_hex(4)


@dataclass(slots=True)
class NodeContext:
    """What every part of a node knows. `hostname` is Celery's name of the node, set when it starts
    (before a prefork pool forks); with the boot's token it is the node's name in the store."""

    colony: Colony
    settings: Settings
    app: Celery
    hostname: str = "node"
    boot: str = field(default_factory=new_boot)
    lease: Lease = field(default_factory=Lease)
    drain: Drain = field(default_factory=Drain)
    children: Children = field(default_factory=Children)

    @property
    def node(self) -> str:
        """The node's name in the store."""
        return f"{self.hostname}/{self.boot}"

    @property
    def word(self) -> Word:
        """The word that the node leaves on its disk."""
        return Word(self.settings, self.colony.name, self.node)

    def open_store(self, *, patience: timedelta | None) -> Store:
        """A store on a connection of its own, for the event loop that uses it first."""
        return Store(Link(self.settings.store_url, patience=patience), self.colony.name)

    def doorbells(self) -> Doorbells:
        """The doorbells, on the app's connections."""
        return Doorbells(self.app, self.colony.name, self.settings)

    def face(self) -> dict[str, str | int]:
        """What producers may know of the definition without having it."""
        colony = self.colony
        agents = [
            {
                "name": s.name,
                "model": str(getattr(s.model, "model_name", s.model)),
                "tools": sorted(colony.tools_of(s)),
                "accounts": None if s.accounts is None else list(s.accounts),
            }
            for s in colony.agents.values()
        ]
        config = colony.config
        return {
            "goal": colony.goal,
            "version": colony.version,
            "default_agent": colony.default_agent,
            "agents": json.dumps(agents),
            "config": config.model_dump_json(),
            "pipeline": dump(colony.pipeline),
            "accounts": json.dumps([c.public.model_dump() for c in colony.credentials.values()]),
            "max_pending": config.max_pending,
            "max_history": config.max_history,
            "max_resurrections": config.max_resurrections,
            "quarantine_max": config.quarantine_max,
            "deliveries_max": config.deliveries_max,
            "dead_deliveries_max": config.dead_deliveries_max,
            **self._caps(),
            "max_depth": config.max_depth,
            "max_descendants": config.max_descendants,
            "idempotency_max_keys": config.idempotency_max_keys,
        }

    def _caps(self) -> dict[str, str | int]:
        """The definition's caps, by the names of the store ("" for none)."""
        config, agents = self.colony.config, self.colony.agents.values()
        caps = {
            "cap:colony": config.max_concurrent_workers,
            "cap:key": config.max_concurrent_per_key,
            **{f"cap:agent:{spec.name}": spec.max_concurrent for spec in agents},
        }
        capped = any(cap is not None for cap in caps.values())
        named = {name: "" if cap is None else cap for name, cap in caps.items()}
        return {**named, "definition_capped": int(capped)}
