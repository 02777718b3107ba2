"""What is wrong with a file's content, in one line."""

from pydantic import ValidationError

from pyro_vble._arguments import brief

_MOST_PROBLEMS = 5
_LONGEST = 100


def problems_of(error: ValidationError, whole: str = "the whole") -> str:
    """Field, rule and value of what is wrong, cut short: a file may hold anything.

    Example:
        >>> import pydantic
        >>> from pyro_vble.io.validated import problems_of
        >>> class Content(pydantic.BaseModel):
        ...     count: int
        >>> try:
        ...     Content.model_validate({"count": "many" * 1000})
        ... except pydantic.ValidationError as error:
        ...     print(problems_of(error)[:60])
        count: Input should be a valid integer, unable to parse stri
    """
    errors = error.errors(include_url=False, include_context=False)
    told = []
    for one in errors[:_MOST_PROBLEMS]:
        where = ".".join(_cut(str(part), 40) for part in one["loc"]) or whole
        received = "" if one["type"] in ("missing", "value_error") else f" (received {_cut(brief(one['input']))})"
        told.append(f"{where}: {_cut(one['msg'].removeprefix('Value error, '), 300)}{received}")
    if len(errors) > _MOST_PROBLEMS:
        told.append(f"and {len(errors) - _MOST_PROBLEMS} more")
    return "; ".join(told)


def _cut(text: str, longest: int = _LONGEST) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else text[:longest] + "..."
