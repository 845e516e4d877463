"""Who is there, what they may do, and that a change was really asked for by our own page."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Form, HTTPException, Request, Response
from fastapi.responses import RedirectResponse
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from console.context import LANGUAGE_COOKIE, console_of, page
from console.users import SESSION_S, Role, Throttled, User
from console.words import LANGUAGES

__all__ = [
    "Admin",
    "LoginNeeded",
    "Operator",
    "SecureHeaders",
    "Viewer",
    "address_of",
    "check_csrf",
    "csrf_token",
    "current_user",
    "require",
    "router",
]

SESSION_COOKIE = "gridwatch_session"
VISITOR_COOKIE = "gridwatch_visitor"  # binds the log-in form to a browser before there is a session

YEAR_S = 365 * 86400

CSP = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)

HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

router = APIRouter()


class LoginNeeded(Exception):  # noqa: N818 - no error: it leads to the log-in page
    """Nobody is logged in."""


def address_of(request: Request) -> str:
    """Where a request came from; behind a proxy, uvicorn has put the client's address there."""
    return request.client.host if request.client else ""


def current_user(request: Request) -> User:
    """The user of a request.

    Raises:
        LoginNeeded: if nobody is logged in.
    """
    found: User | None = getattr(request.state, "user", None)
    if found is None:
        console = console_of(request)
        token = request.cookies.get(SESSION_COOKIE, "")
        found = console.users.session(token, console.clock()) if token else None
        if found is None:
            raise LoginNeeded
        request.state.user = found
    return found


def require(role: Role) -> Callable[[Request], User]:
    """A dependency: the user, who has at least this role; 403 otherwise."""

    def dependency(request: Request) -> User:
        user = current_user(request)
        if not user.may(role):
            console = console_of(request)
            console.users.audit(
                console.clock(), user.name, "forbidden", request.url.path, {}, address_of(request)
            )
            raise HTTPException(403, f"this needs the role {role.value}")
        return user

    return dependency


Viewer = Annotated[User, Depends(require(Role.VIEWER))]
Operator = Annotated[User, Depends(require(Role.OPERATOR))]
Admin = Annotated[User, Depends(require(Role.ADMIN))]


# Cross-site request forgery: a token bound to the session, in a header or a form field of every change


def csrf_token(request: Request) -> str:
    """The token that changes from this browser must carry."""
    bound = request.cookies.get(SESSION_COOKIE) or _visitor(request)
    return hmac.new(console_of(request).csrf_key, bound.encode(), hashlib.sha256).hexdigest()


async def check_csrf(request: Request) -> None:
    """Refuse a change without the token; a dependency of the whole app."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    given = request.headers.get("x-csrf-token", "")
    if not given:
        form = await request.form()
        said = form.get("csrf", "")
        given = said if isinstance(said, str) else ""
    if not hmac.compare_digest(given.encode(), csrf_token(request).encode()):
        raise HTTPException(403, "the page is too old or not ours; load it again")


def _visitor(request: Request) -> str:
    known = request.cookies.get(VISITOR_COOKIE)
    if known:
        return known
    fresh: str = getattr(request.state, "visitor", "") or secrets.token_urlsafe(16)
    request.state.visitor = fresh  # the middleware sets the cookie
    return fresh


class SecureHeaders:
    """ASGI middleware: what every answer says to the browser about itself.

    Plain ASGI and no response object: event streams pass through it untouched.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and complete the head of its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
                if _is_secure(request):
                    headers["Strict-Transport-Security"] = f"max-age={YEAR_S}"
                visitor = getattr(request.state, "visitor", "")
                if visitor:
                    cookie = Response()
                    _set_cookie(request, cookie, VISITOR_COOKIE, visitor, YEAR_S)
                    headers.append("set-cookie", cookie.headers["set-cookie"])
            await send(message)

        await self._app(scope, receive, send_with_headers)


# Logging in and out


@router.get("/login")
def login_page(request: Request, then: str = "/") -> Response:
    """The log-in form."""
    try:
        current_user(request)
    except LoginNeeded:
        return page(request, "login.html", then=_local(then), problem="", name="")
    return RedirectResponse(_local(then), 303)


@router.post("/login")
def login(
    request: Request,
    name: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
    then: Annotated[str, Form()] = "/",
) -> Response:
    """Check name and password."""
    console = console_of(request)
    try:
        token = console.users.log_in(name.strip(), password, address_of(request), console.clock())
    except Throttled as error:
        answer: Response = page(
            request,
            "login.html",
            status_code=429,
            then=_local(then),
            problem="login.throttled",
            name=name,
        )
        answer.headers["Retry-After"] = str(round(error.retry_s))
        return answer
    if token is None:
        return page(
            request,
            "login.html",
            status_code=401,
            then=_local(then),
            problem="login.wrong",
            name=name,
        )
    return _begun(request, token, _local(then))


@router.get("/login/{token}")
def login_by_link(request: Request, token: str) -> Response:
    """A link that works once: the first administrator's, or the demo's."""
    console = console_of(request)
    session = console.users.log_in_by_link(token, address_of(request), console.clock())
    if session is None:
        try:
            current_user(request)
        except LoginNeeded:
            return page(
                request,
                "login.html",
                status_code=401,
                then="/",
                problem="login.link_used",
                name="",
            )
        return RedirectResponse("/", 303)
    return _begun(request, session, "/")


@router.post("/logout")
def logout(request: Request, user: Viewer) -> Response:
    """End the session."""
    console = console_of(request)
    console.users.log_out(
        request.cookies.get(SESSION_COOKIE, ""), user.name, address_of(request), console.clock()
    )
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(SESSION_COOKIE)
    return answer


@router.post("/language")
def language(
    request: Request,
    lang: Annotated[str, Form()],
    then: Annotated[str, Form()] = "/",
) -> Response:
    """Choose the page's language."""
    answer = RedirectResponse(_local(then), 303)
    if lang in LANGUAGES:
        _set_cookie(request, answer, LANGUAGE_COOKIE, lang, YEAR_S)
    return answer


def _begun(request: Request, token: str, then: str) -> Response:
    answer = RedirectResponse(then, 303)
    _set_cookie(request, answer, SESSION_COOKIE, token, round(SESSION_S))
    return answer


def _set_cookie(request: Request, answer: Response, name: str, value: str, life_s: int) -> None:
    # Lax, not strict: operators come here by links in messages.
    answer.set_cookie(
        name,
        value,
        max_age=life_s,
        secure=_is_secure(request),
        httponly=True,
        samesite="lax",
    )


def _is_secure(request: Request) -> bool:
    forced = console_of(request).settings.secure
    return request.url.scheme == "https" if forced is None else forced


def _local(then: str) -> str:
    """A path of ours; another site's address becomes the front page."""
    return then if then.startswith("/") and not then.startswith(("//", "/\\")) else "/"
