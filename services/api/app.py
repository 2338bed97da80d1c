"""The gateway: `uvicorn --factory services.api.app:create_app`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

import anyio
from fastapi import FastAPI

from services.api import events, openapi, problem_responses
from services.api.dependencies import Parts
from services.api.housekeeping import housekeeping
from services.api.middleware import RequestMiddleware
from services.api.reconciler import Reconciler
from services.api.relay import Relay, Send, broker_sender
from services.api.routes import audits, editors, service, training_sets
from services.api.submissions import ModelInspector, inspect
from shared.artifacts import ArtifactStore
from shared.database import create_database_engine
from shared.settings import Settings, get_settings

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
ROUTERS = (service.router, audits.router, training_sets.router, editors.router)


def create_app(
    settings: Settings | None = None, *, send: Send | None = None, inspector: ModelInspector = inspect
) -> FastAPI:
    """The application; its database must have been migrated.

    send: hands a wake-up to the broker. inspector: examines the model that a request names.
    """
    settings = settings or get_settings()
    settings.data_directory.mkdir(parents=True, exist_ok=True)
    engine = create_database_engine(settings.resolved_database_url)
    store = ArtifactStore(settings.resolved_artifacts_url)
    relay = Relay(engine, settings, send or broker_sender(settings))
    background = (Reconciler(engine, settings), relay, housekeeping(engine, store, settings))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)  # unless the process has its own
        for rounds in background:
            rounds.start()
        try:
            yield
        finally:
            for rounds in background:
                await anyio.to_thread.run_sync(rounds.stop)
            engine.dispose()

    app = FastAPI(
        title="Holdfast", version=version("holdfast"), lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.parts = Parts(
        settings=settings,
        engine=engine,
        store=store,
        relay=relay,
        inspector=inspector,
        stream_threads=anyio.CapacityLimiter(events.MAX_POLLS_AT_ONCE),
    )
    problem_responses.install(app, ROUTERS)
    for router in ROUTERS:
        app.include_router(router)
    app.openapi = partial(openapi.document, app)  # type: ignore[method-assign]  # as FastAPI documents it
    app.add_middleware(RequestMiddleware)
    return app
