"""The server: OpenAI's models, chat and completions over one engine, the chat page, health, and why.

Every answer other than 200 is OpenAI's error object. Prompts and answers are never logged. Tools, structured output and
token probabilities come with a later issue; until then their fields are refused by name, and there is no /metrics.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from athanor.base.errors import AthanorError
from athanor.inference.engine import Engine
from athanor.serving import schema
from athanor.serving.answers import Shape
from athanor.serving.body import check, read_object
from athanor.serving.errors import ApiError, bad_request, shown
from athanor.serving.generation import NONE_SAID, Job, Room, engine_stopped, sampling_of
from athanor.serving.guard import Guard
from athanor.serving.history import Prompt, fit, refuse_giants, render
from athanor.serving.page import not_found, page_routes
from athanor.serving.sending import StreamedAnswer, Task, WholeAnswer
from athanor.serving.settings import ServingSettings, check_exposure
from athanor.tokens.chat import NO_TEMPLATE, Template, bytes_per_token, completion_start
from athanor.tokens.tokenizer import Tokenizer

Why = Callable[[str], list[dict[str, Any]]]


def create_app(
    engine: Engine,
    template: Template | None,
    *,
    model_name: str,
    settings: ServingSettings,
    adapters: Sequence[str] = (),
    why: Why | None = None,
    tokenizer: Tokenizer | None = None,
    defaults: Mapping[str, Any] = NONE_SAID,
) -> FastAPI:
    """The application that answers for one model.

    Args:
        engine: started; the caller closes it after the server stopped.
        template: the chat template with the model's tokenizer; None: the model only continues texts, and `tokenizer`
            must be given.
        model_name: what clients put into `model`.
        adapters: names of adapters beside the model, which they may put there as well.
        why: from a text to the rows of `athanor.serving.why.span_rows`; None hides the button and refuses /why.
        defaults: fields of `Sampling` as the model's files have them, for what a request leaves unsaid.
    Raises:
        AthanorError: the settings open the server to other machines without a key.
    """
    check_exposure(settings)
    app = FastAPI(title="Athanor", docs_url=None, redoc_url=None, swagger_ui_oauth2_redirect_url=None)
    app.router.redirect_slashes = False
    tokenizer = tokenizer if template is None else template.tokenizer
    assert tokenizer is not None
    server = Server(engine, template, tokenizer, (model_name, *adapters), settings, why, defaults)
    add = app.add_api_route
    add("/v1/models", server.models, methods=["GET"])
    add("/v1/models/{name:path}", server.model, methods=["GET"])
    add("/v1/chat/completions", server.chat, methods=["POST"], openapi_extra=_takes(schema.ChatRequest))
    add("/v1/completions", server.completions, methods=["POST"], openapi_extra=_takes(schema.CompletionRequest))
    add("/why", server.why_text, methods=["POST"], openapi_extra=_takes(schema.WhyRequest))
    add("/health", server.health, methods=["GET"])
    add("/page.json", server.page, methods=["GET"], include_in_schema=False)
    app.router.routes.extend(page_routes())
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(ApiError, _api_problem)
    app.add_middleware(Guard, settings=settings)
    return app


class Server:
    """The routes and what they share: one engine, one template, one count of answers in progress."""

    def __init__(
        self, engine: Engine, template: Template | None, tokenizer: Tokenizer, names: tuple[str, ...],
        settings: ServingSettings, why: Why | None, defaults: Mapping[str, Any],
    ):  # fmt: skip
        self.engine, self.template, self.tokenizer = engine, template, tokenizer
        self.names, self.model_name = names, names[0]
        self.settings, self.why, self.defaults = settings, why, defaults
        self.created = int(time.time())
        token_bytes = tokenizer.token_bytes()
        self.vocabulary, self.longest_token = len(token_bytes), bytes_per_token(tokenizer, token_bytes)
        self.room = Room(settings.queue)

    async def models(self) -> Response:
        """GET /v1/models."""
        return JSONResponse({"object": "list", "data": [self._model_row(name) for name in self.names]})

    async def model(self, name: str) -> Response:
        """GET /v1/models/{name}."""
        self._check_model(name)
        return JSONResponse(self._model_row(name))

    async def health(self) -> Response:
        """GET /health: 200 while the engine's thread lives."""
        if not self.engine.alive:
            raise engine_stopped()
        return JSONResponse({"status": "ok", "model": self.model_name, "answers": self.room.taken, **self.engine.load})

    async def page(self) -> Response:
        """GET /page.json: what the chat page must know before it can ask."""
        key_required = self.settings.api_key is not None
        row = {"model": self.model_name, "why": self.why is not None, "key_required": key_required}
        return JSONResponse({**row, "context": self.engine.context})

    async def why_text(self, request: Request) -> Response:
        """POST /why: the training documents that contain parts of a text."""
        asked = check(schema.WhyRequest, await read_object(request))
        if self.why is None:
            raise ApiError(404, "This server was started without a document index.", code="no_document_index")
        try:
            spans = await run_in_threadpool(self.why, asked.text)
        except AthanorError as problem:
            raise bad_request(str(problem), param="text") from None
        return JSONResponse({"spans": spans})

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        asked = check(schema.ChatRequest, schema.refuse_unsupported(await read_object(request)))
        self._check_model(asked.model)
        if self.template is None:
            message = f"This model cannot chat: {NO_TEMPLATE}. Ask /v1/completions to continue a text."
            raise bad_request(message, param="messages", code="no_chat_template")
        prompt = await run_in_threadpool(
            render,
            self.template,
            asked.messages,
            asked.longest,
            context=self.engine.context,
            longest_token=self.longest_token,
            drop_oldest=self.settings.history == "drop-oldest",
        )
        headers = {"x-athanor-dropped-turns": str(prompt.dropped)} if prompt.dropped else {}
        return self._answer(asked, [prompt], chat=True, before=[""], headers=headers)

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions."""
        asked = check(schema.CompletionRequest, schema.refuse_unsupported(await read_object(request)))
        self._check_model(asked.model)
        prompts = await run_in_threadpool(self._document_prompts, asked)
        before = list(asked.prompt) if asked.echo else [""] * len(prompts)
        return self._answer(asked, prompts, chat=False, before=before, headers={})

    def _document_prompts(self, asked: schema.CompletionRequest) -> list[Prompt]:
        for text in asked.prompt:
            refuse_giants([text], self.longest_token, self.engine.context, "prompt")
        rows = self.tokenizer.encode_batch(list(asked.prompt))
        start = completion_start(self.tokenizer)
        return [fit([*start, *row], asked.longest, self.engine.context, "prompt") for row in rows]

    def _answer(
        self, asked: schema.Generation, prompts: list[Prompt], *, chat: bool, before: list[str], headers: dict[str, str]
    ) -> Response:
        """The answer to a checked request: n choices for each prompt, as one object or as a stream."""
        if not self.engine.alive:
            raise engine_stopped()
        with_usage = asked.stream_options is not None and asked.stream_options.include_usage
        shape = Shape(asked.model, chat, with_usage)
        adapter = None if asked.model == self.model_name else asked.model
        jobs: list[Job] = [
            (prompt.ids, sampling_of(asked, prompt.longest, index, self.vocabulary, adapter, self.defaults))
            for prompt in prompts
            for index in range(asked.n)
        ]
        task = Task(
            jobs,
            shape,
            before=[text for text in before for _ in range(asked.n)],
            prompt_tokens=sum(len(prompt.ids) for prompt in prompts),
        )
        answer = StreamedAnswer if asked.stream else WholeAnswer
        return answer(self.engine, self.room, task, headers)

    def _check_model(self, name: str) -> None:
        if name not in self.names:
            known = ", ".join(f"'{one}'" for one in self.names)
            message = f"There is no model {shown(name)}; this server has {known}."
            raise ApiError(404, message, param="model", code="model_not_found")

    def _model_row(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.created, "owned_by": "athanor"}


def _takes(model: type[schema.Strict]) -> dict[str, Any]:
    """The request body for the OpenAPI description; the body itself is read and checked by our own strict reader."""
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


async def _http_problem(request: Request, problem: Exception) -> Response:
    """404 and 405 of the router."""
    status = getattr(problem, "status_code", 500)
    if status == 404:
        return not_found(request.url.path).response()
    headers = getattr(problem, "headers", None)
    return ApiError(status, str(getattr(problem, "detail", "")), code="method_not_allowed", headers=headers).response()


async def _api_problem(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, ApiError)
    return problem.response()
