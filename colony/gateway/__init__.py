"""The HTTP gateway: the runtime's verbs for those who have no Python or no way to Redis.

    request ─▶ limits ─▶ auth ─▶ routes ─▶ ColonyRuntime ─▶ Redis
                            problems ◀─┘ (every error, RFC 9457)

==========  ==================================================================================
settings    what one process takes and gives at most
app         the app: its layers, its beginning and its end
serve       the app behind uvicorn, as `colony gateway` runs it
limits      what is refused unseen: too long, too large, too slow
auth        who asks, and whether the route's scope is theirs; fleet-wide rate
problems    one table from errors to answers
colonies    runtimes and feeds, opened when asked for
feed, sse   events: one subscription for all readers; their text
describe    the OpenAPI description beyond the code; `examples` of answers
models      what is taken and given beside `colony.models`
routes/     one module per thing that is asked about
==========  ==================================================================================

It keeps nothing of its own: any number of gateways may stand beside each other, and each may be restarted at
any moment. Served by `colony gateway`, or by ``uvicorn --factory colony.gateway:app``.
"""

from __future__ import annotations

from importlib.util import find_spec

from colony.errors import ConfigurationError

_missing = [name for name in ("fastapi", "uvicorn", "standardwebhooks") if find_spec(name) is None]
if _missing:
    raise ConfigurationError(
        f"the gateway needs {', '.join(_missing)}: pip install 'colony[gateway]'"
    )

from colony.gateway.app import create_app  # noqa: E402 - not before it is known to be there

__all__ = ["app", "create_app"]

app = create_app
"""The factory for servers: settings come from the environment, tokens are required."""
