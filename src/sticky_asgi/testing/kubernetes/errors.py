"""What the API server refuses with: an HTTP status, and a Status object that says why.

Reasons, wording and details are those of the real server's `apimachinery/pkg/api/errors`, because
clients look at them and people know them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .resources import Object, Resource

#: `reason` of a Status by its code, where nothing else is said.
REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    409: "Conflict",
    410: "Expired",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class KubernetesError(Exception):
    """A request was refused.

    Attributes:
        code: The HTTP status.
        reason: The machine-readable word, such as `NotFound`.
        message: The sentence for people.
        details: What `details` of the Status holds: the object's name, kind and group, the causes,
            or `retryAfterSeconds`.
        continue_token: What `metadata.continue` of the Status holds, for an expired list.
    """

    def __init__(
        self,
        code: int,
        message: str,
        *,
        reason: str | None = None,
        details: Mapping[str, Any] | None = None,
        continue_token: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = REASONS.get(code, "") if reason is None else reason
        self.message = message
        self.details = details
        self.continue_token = continue_token

    @property
    def status(self) -> Object:
        """The Status object."""
        status: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.continue_token is not None:
            status["metadata"]["continue"] = self.continue_token
        if self.details is not None:
            status["details"] = dict(self.details)
        status["code"] = self.code
        return status

    def __repr__(self) -> str:
        return f"<KubernetesError {self.code} {self.reason}: {self.message}>"


class Problem(NamedTuple):
    """What is wrong with one field of an object."""

    field: str
    reason: str
    message: str


def invalid_value(field: str, value: object, why: str) -> Problem:
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return Problem(field, "FieldValueInvalid", f"Invalid value: {shown}: {why}")


def required(field: str, why: str = "") -> Problem:
    return Problem(field, "FieldValueRequired", f"Required value: {why}".removesuffix(": "))


def duplicate(field: str, value: str) -> Problem:
    return Problem(field, "FieldValueDuplicate", f'Duplicate value: "{value}"')


def unsupported(field: str, value: object, known: Sequence[str]) -> Problem:
    words = ", ".join(f'"{word}"' for word in known)
    return Problem(
        field,
        "FieldValueNotSupported",
        f'Unsupported value: "{value}": supported values: {words}',
    )


def forbidden_field(field: str, why: str) -> Problem:
    return Problem(field, "FieldValueForbidden", f"Forbidden: {why}")


def _details(resource: Resource, name: str, *, kind: str | None = None) -> dict[str, Any]:
    details = {"name": name, "group": resource.group, "kind": kind or resource.plural}
    return {key: value for key, value in details.items() if value}


def bad_request(message: str) -> KubernetesError:
    return KubernetesError(400, message)


def unauthorized() -> KubernetesError:
    return KubernetesError(401, "Unauthorized")


def forbidden(
    resource: Resource, verb: str, namespace: str | None, name: str, user: str
) -> KubernetesError:
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    subject = f'{resource.qualified} "{name}"' if name else resource.qualified
    return KubernetesError(
        403,
        f'{subject} is forbidden: User "{user}" cannot {verb} resource "{resource.plural}" '
        f'in API group "{resource.group}" {where}',
        details=_details(resource, name),
    )


def not_found(resource: Resource, name: str) -> KubernetesError:
    return KubernetesError(
        404, f'{resource.qualified} "{name}" not found', details=_details(resource, name)
    )


def no_such_path() -> KubernetesError:
    return KubernetesError(404, "the server could not find the requested resource", details={})


def method_not_allowed() -> KubernetesError:
    return KubernetesError(
        405, "the server does not allow this method on the requested resource", details={}
    )


def not_acceptable(accepted: Sequence[str]) -> KubernetesError:
    return KubernetesError(
        406, f"only the following media types are accepted: {', '.join(accepted)}"
    )


def already_exists(resource: Resource, name: str) -> KubernetesError:
    return KubernetesError(
        409,
        f'{resource.qualified} "{name}" already exists',
        reason="AlreadyExists",
        details=_details(resource, name),
    )


def conflict(resource: Resource, name: str, why: str) -> KubernetesError:
    return KubernetesError(
        409,
        f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}',
        details=_details(resource, name),
    )


def modified(resource: Resource, name: str) -> KubernetesError:
    return conflict(
        resource,
        name,
        "the object has been modified; please apply your changes to the latest version and try "
        "again",
    )


def too_old(version: int, oldest: int) -> KubernetesError:
    return KubernetesError(410, f"too old resource version: {version} ({oldest})")


def expired_continue(token: str) -> KubernetesError:
    return KubernetesError(
        410,
        "The provided continue parameter is too old to display a consistent list result. You can "
        "start a new list without the continue parameter, or use the continue token in this "
        "response to retrieve the remainder of the results. Continuing with the provided token "
        "results in an inconsistent list - objects that were created, modified, or deleted "
        "between the time the first chunk was returned and now may show up in the list.",
        continue_token=token,
    )


def too_new(version: int, newest: int) -> KubernetesError:
    message = f"Too large resource version: {version}, current: {newest}"
    return KubernetesError(
        504,
        f"Timeout: {message}",
        details={
            "causes": [{"reason": "ResourceVersionTooLarge", "message": message}],
            "retryAfterSeconds": 1,
        },
    )


def too_large(limit: int) -> KubernetesError:
    return KubernetesError(413, f"Request entity too large: limit is {limit}")


def unsupported_media_type(accepted: Sequence[str]) -> KubernetesError:
    return KubernetesError(
        415,
        "the body of the request was in an unknown format - accepted media types include: "
        + ", ".join(accepted),
    )


def invalid(resource: Resource, name: str, problems: Sequence[Problem]) -> KubernetesError:
    texts = [f"{problem.field}: {problem.message}" for problem in problems]
    listed = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    causes = [
        {"reason": problem.reason, "message": problem.message, "field": problem.field}
        for problem in problems
    ]
    return KubernetesError(
        422,
        f'{resource.qualified_kind} "{name}" is invalid: {listed}',
        details=_details(resource, name, kind=resource.kind) | {"causes": causes},
    )


def success(resource: Resource, obj: Object) -> Object:
    """The Status of a deletion that worked."""
    metadata = obj["metadata"]
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": _details(resource, metadata["name"]) | {"uid": metadata["uid"]},
    }
