"""athanor serve: OpenAI's interface and a chat page, on this machine."""

import os

import click

from athanor.base.errors import AthanorError
from athanor.base.words import say
from athanor.verbs.options import open_speaker, store_option

KEY = "ATHANOR_API_KEY"


@click.command(
    epilog="\b\nExample:  athanor serve\n          athanor serve model-1f2e3d4c --adapter adapter-5a6b7c8d\n"
    f"          {KEY}=a-long-secret-word athanor serve --host 0.0.0.0"
)
@click.argument("model", required=False)
@click.option("--host", default="127.0.0.1", show_default=True, help=say("address to listen on", "监听地址"))
@click.option(
    "--port", default=8000, show_default=True, help=say("port; 0 takes a free one", "端口；0 表示任选空闲端口")
)
@click.option("--history", type=click.Choice(["refuse", "drop-oldest"]), default="refuse", show_default=True,
              help=say("what to do with a conversation longer than the context", "对话超出上下文时的做法"))  # fmt: skip
@click.option(
    "--queue", default=64, show_default=True, help=say("requests at once; more get 429", "同时请求数上限，超出返回 429")
)
@click.option("--adapter", multiple=True, metavar="NAME",
              help=say("an adapter of it that clients may ask for as well (may be given again)",
                       "同时提供该模型的适配器（可多次）"))  # fmt: skip
@store_option
def command(
    model: str | None, host: str, port: int, history: str, queue: int, adapter: tuple[str, ...], store: str | None
) -> None:  # fmt: skip
    """Serve MODEL (the name of a model or an adapter, a checkpoint's folder, or the newest of the store).

    OpenAI's interface is at /v1, a chat page at /. The key, if any, is read from the environment: ATHANOR_API_KEY.
    """
    from athanor.base.settings import parse_settings
    from athanor.serving.run import check_port, serve
    from athanor.serving.settings import ServingSettings, check_exposure

    values = {"host": host, "port": port, "history": history, "queue": queue, "api_key": os.environ.get(KEY)}
    settings = parse_settings(ServingSettings, values, "serve")
    check_exposure(settings)
    check_port(host, port)  # before anything heavy is loaded
    name, runtime, more = open_speaker(store, model, adapter)

    from athanor.serving.app import create_app

    app = create_app(
        runtime.engine, runtime.template, model_name=name, adapters=more, settings=settings, why=_why(store),
        tokenizer=runtime.tokenizer, defaults=runtime.defaults.sampling,
    )  # fmt: skip
    if shown := runtime.defaults.shown({"beams": 1, "max_tokens": 1}):  # requests have their own length
        click.echo(say(f"what a request leaves unsaid, as generation_config.json has it: {shown}",
                       f"请求未指明时采用 generation_config.json：{shown}"), err=True)  # fmt: skip
    if runtime.template is None:
        click.echo(say("the model has no chat template: it continues texts (/v1/completions), but does not chat",
                       "模型没有对话模板：只能续写（/v1/completions），不能对话"), err=True)  # fmt: skip

    def announce(address: str) -> None:
        click.echo(say(f"{name} at {address} · OpenAI's interface at {address}v1 · Ctrl-C stops",
                       f"{name}：{address} · OpenAI 接口 {address}v1 · Ctrl-C 停止"), err=True)  # fmt: skip

    try:
        serve(app, host, port, drain_seconds=settings.drain_seconds, announce=announce)
    finally:
        runtime.engine.close()


def _why(store: str | None):  # type: ignore[no-untyped-def]
    """The document index of the store as the page's `why`, or None where there is none."""
    from athanor.data.packing.explain import Explainer
    from athanor.store.artifact import find_store
    from athanor.verbs.options import latest

    try:
        index = latest(find_store(store), "index")
    except AthanorError:
        click.echo(
            say(
                "no document index in the store: the page has no `why` button", "仓库中没有文档索引：页面不提供“为什么”"
            ),
            err=True,
        )
        return None
    return Explainer(index).spans
