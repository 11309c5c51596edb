"""HTTP/1.1 on one connection, as uvicorn speaks it, plus two things it lacks: time limits and JSON errors."""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from athanor.serving.errors import ApiError, bad_request
from athanor.serving.settings import BODY_SECONDS


class PatientProtocol(H11Protocol):
    """Cuts off a client who does not finish sending a request, and explains malformed HTTP as an error object."""

    deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected: its first request must be complete within BODY_SECONDS."""
        super().connection_made(transport)
        self._set_deadline()

    def connection_lost(self, problem: Exception | None) -> None:
        """The client left."""
        self._clear_deadline()
        super().connection_lost(problem)

    def data_received(self, data: bytes) -> None:
        """Bytes came in: the clock runs exactly while a request is incomplete."""
        super().data_received(data)
        if self.transport.is_closing() or not self._request_is_incomplete():
            self._clear_deadline()
        elif self.deadline is None:
            self._set_deadline()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self._send_error(bad_request(f"{msg} Check the request line, the headers and their size.", code="invalid_http"))

    def _request_is_incomplete(self) -> bool:
        if self.conn.their_state is h11.SEND_BODY:
            return True
        return self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])

    def _set_deadline(self) -> None:
        self.deadline = self.loop.call_later(BODY_SECONDS, self._on_deadline)

    def _clear_deadline(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def _on_deadline(self) -> None:
        self.deadline = None
        message = f"The request was not complete after {BODY_SECONDS:g} seconds."
        self._send_error(ApiError(408, message, code="request_timeout"))

    def _send_error(self, problem: ApiError) -> None:
        """Answer outside the application, if no answer has begun, and close the connection."""
        if not self.transport.is_closing() and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = problem.body()
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            response = h11.Response(status_code=problem.status, headers=headers)
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        self.transport.close()
