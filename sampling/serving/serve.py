"""Runs a server of images until it is told to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import NbenchError
from ...pipelines.find import load_pipeline
from ...pipelines.sizes import check_sides, image_size, side_multiple
from ..engine import Engine
from ..sample import setting_of
from .config import ServeConfig, parse_size


def serve(config: ServeConfig, started: Callable[[str], None] = lambda address: None) -> None:
    """Serve until SIGTERM or SIGINT; `started` is told the address. Running requests are answered before the end.

    Raises:
        NbenchError: options that do not fit together, an extra that is missing, or an address that cannot be used.
    """
    try:
        import uvicorn

        from .app import create_app
    except ImportError as error:
        raise NbenchError(f"serving needs the package {error.name}: pip install 'nbench[serve]'") from None

    engine, limits = opened(config)

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                port = self.servers[0].sockets[0].getsockname()[1]
                started(f"http://{config.host}:{port}")

    server = Server(
        uvicorn.Config(
            create_app(engine, limits),
            host=config.host,
            port=config.port,
            log_level="warning",
            timeout_graceful_shutdown=config.stop_after,
        )
    )
    # uvicorn raises the signal again once it has stopped: the process then ends as after any other command
    handlers = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run()
    except SystemExit:
        raise NbenchError(f"cannot listen on {config.host}:{config.port}: choose another --port") from None
    finally:
        engine.close(cancel=True)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def opened(config: ServeConfig) -> tuple[Engine, Any]:
    """The engine of a server, and its limits: what a deployment elsewhere needs for `create_app`.

    Raises:
        NbenchError: options that do not fit together.
    """
    from .app import Limits

    setting = setting_of(config)
    entry = setting.entry
    if config.sizes:
        sizes = {size: parse_size(size) for size in config.sizes}
    else:
        height, width = image_size(entry)
        sizes = {f"{width}x{height}": (width, height)}
    arguments = {size: {"width": width, "height": height} for size, (width, height) in sizes.items()}
    pipe = load_pipeline(entry, config.dtype or entry.dtype, options=config.options)
    for size in arguments.values():
        check_sides(entry.name, size, side_multiple(Path(entry.source), type(pipe), {**entry.call_kwargs, **size}))
    engine = Engine(
        pipe,
        config.model,
        setting.policy,
        n=config.best_of,
        max_batch=config.max_batch,
        queue=config.queue,
        preview=setting.preview,
        **{**setting.arguments, **next(iter(arguments.values()))},
    )
    return engine, Limits(entry.name, arguments, config.max_prompt, config.max_body)
