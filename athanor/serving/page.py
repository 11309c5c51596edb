"""The chat page and its files, read once; no path from a request ever reaches the file system."""

from importlib import resources

from starlette.responses import Response
from starlette.routing import Route

from athanor.serving.errors import ApiError

FILES = {  # address: file, media type
    "/": ("index.html", "text/html; charset=utf-8"),
    "/favicon.svg": ("favicon.svg", "image/svg+xml"),
    "/static/style.css": ("style.css", "text/css; charset=utf-8"),
    "/static/chat.js": ("chat.js", "text/javascript; charset=utf-8"),
    "/static/words.js": ("words.js", "text/javascript; charset=utf-8"),
}


def page_routes() -> list[Route]:
    """One route per file of the page."""
    return [_file_route(address, name, media_type) for address, (name, media_type) in FILES.items()]


def _file_route(address: str, name: str, media_type: str) -> Route:
    content = (resources.files("athanor.serving") / "static" / name).read_bytes()

    async def send_file(request: object) -> Response:
        return Response(content, media_type=media_type)

    return Route(address, send_file, methods=["GET"], include_in_schema=False)


def not_found(path: str) -> ApiError:
    """404 for an address that does not exist."""
    return ApiError(404, f"There is nothing at {ascii(path)[:80]}; see /v1/models and / .", code="not_found")
