"""What an exchange account is called in the ledger, so that a sync goes on with the book that a live run keeps."""

from __future__ import annotations

from live.ledger import Ledger
from live.venues import AccountVenue


def ledger_account(ledger: Ledger, place: AccountVenue, account_id: str | None) -> str:
    """The account's name in the ledger.

    Live runs name it by venue and the exchange's own name (`live.session.account_name`), with the name of a real
    sub-account after a dot. A book under the venue's name alone was begun by a sync, which goes on with it.

    Args:
        ledger: whose books there are.
        place: where the account is.
        account_id: the exchange's own name of the account, empty where it gives none; None when it cannot be asked.
    """
    known = ledger.exchanges()
    prefix = f"{place.venue.name}-"
    if account_id is None:
        named = [one for one in known if one.startswith(prefix)]
    else:
        own = f"{prefix}{account_id}"
        named = [one for one in known if account_id and (one == own or one.startswith(f"{own}."))]
    if account_id is not None and named:
        return named[0]
    if account_id is None and len(named) == 1 and place.account_key not in known:
        return named[0]
    # Paper exchanges call their first accounts alike: only their addresses tell them apart.
    if account_id and place.venue.name != "paper" and place.account_key not in known:
        return f"{prefix}{account_id}"
    return place.account_key
