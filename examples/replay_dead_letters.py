"""Calls that fail for good are kept with their arguments, and run again when their cause is gone.

Run it with ``python examples/replay_dead_letters.py``; it takes about a second and leaves nothing behind.
"""

import tempfile
from pathlib import Path

from amorsize_executor import AdaptiveExecutor, DeadLetterQueue, DLQPolicy, replay_failed_items

ORDERS = 60
NOWHERE = 33


def ship(warehouse: str, order: int, address: str) -> str:
    """Ship an order. The warehouse has run out of what every seventh order wants; one address is no address."""
    if not address.strip():
        message = f"order {order} has no address"
        raise ValueError(message)
    if order % 7 == 0 and not Path(warehouse, "delivery").exists():
        message = f"order {order}: out of stock"
        raise LookupError(message)
    return f"order {order} goes to {address}"


def first_run(policy: DLQPolicy, warehouse: str) -> None:
    """Ship what can be shipped; what fails is no reason to stop."""
    addresses = [" " if order == NOWHERE else f"{order} Main Street" for order in range(ORDERS)]
    with AdaptiveExecutor(dead_letters=policy) as executor:
        shipped = list(executor.imap(ship, [warehouse] * ORDERS, range(ORDERS), addresses, on_error="skip"))
    print(f"{ORDERS} orders: {len(shipped)} shipped")


def look(queue: DeadLetterQueue) -> None:
    """Say what is in the queue."""
    summary = queue.get_summary()
    print(f"{summary['total_entries']} dead letters: {summary['error_types']}")
    entry = queue.get_entries()[0]
    print(f"  the first: {entry.error_type}: {entry.error_message}; arguments: {entry.item[1:]}")
    print(f"  it failed here: {entry.traceback.splitlines()[-2].strip()}")


def second_run(policy: DLQPolicy, warehouse: str) -> None:
    """Run again what failed, as another program might do tomorrow."""
    with DeadLetterQueue(policy) as queue:
        queue.load()  # a new queue is empty: this brings in what is stored
        look(queue)
        Path(warehouse, "delivery").touch()
        print("\na delivery has come; replaying, in parallel:")
        replay = replay_failed_items(queue, ship)
        for entry, result in zip(replay.succeeded, replay.results):
            print(f"  {result}   (it had failed with {entry.error_type})")
        for entry in replay.still_failed:
            print(f"  still failed: {entry.error_message} (retries: {entry.retry_count})")
        print(f"\n{ORDERS} orders = {ORDERS - queue.size()} shipped + {queue.size()} dead letter")
        exported = Path(warehouse, "left.jsonl")
        queue.save(exported)
        print(f"what is left, as a line of JSON: {exported.read_text(encoding='utf-8')[:70]}…")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        letters = DLQPolicy(directory=str(Path(folder, "dlq")))
        first_run(letters, folder)
        second_run(letters, folder)
