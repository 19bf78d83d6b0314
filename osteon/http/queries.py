"""What a call asks for behind the `?`: a parameter that there is not is refused, not passed over.

A request enters and leaves as it is, or a problem does; ``app.py`` puts it before the API's calls.
"""

from http import HTTPStatus

from fastapi import HTTPException, Request

NAME_CHARACTERS_MAX = 64


async def only_known(request: Request) -> None:
    """Refuse a query parameter that the call does not have: a misspelt filter would filter nothing.

    Raises
    ------
    HTTPException
        422, and which parameters there are.
    """
    known = sorted(str(field.alias) for field in request.scope["route"].dependant.query_params)
    for name in request.query_params:
        if name not in known:
            raise HTTPException(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"{name[:NAME_CHARACTERS_MAX]!r} is no parameter of this call; it has"
                f" {', '.join(known) or 'none'}",
            )
