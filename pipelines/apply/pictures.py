"""Views of some files and of their results, which a job's report shows."""

import shutil
from collections.abc import Iterable

from core.errors import InputError
from core.predictor import shows_of
from core.storage import files
from pipelines.apply.ledger import Record
from pipelines.apply.listing import RESULTS, Order

COUNT = 6  # files that are shown
PANELS, FOLDER = "panels.json", "pictures"


def write_pictures(order: Order, records: Iterable[Record]) -> None:
    """Write ``panels.json`` and ``pictures/`` of files spread evenly, if the predictor shows any.

    A file that cannot be shown, as one that memory does not hold, gives its place to the next.
    """
    from core.results.panels import write_panels

    show = shows_of(order.build)
    if show is None:
        return
    done = sorted((record for record in records if record.state == "done"), key=lambda r: r.name)
    panels, count = [], min(COUNT, len(done))
    for place in range(count):
        for record in done[place * len(done) // count : (place + 1) * len(done) // count]:
            try:
                panel = show(
                    order.folder / record.name, order.out / RESULTS / record.result, record.facts
                )
            except InputError:
                continue
            if panel is not None:
                panels.append(panel)
                break
    shutil.rmtree(order.out / FOLDER, ignore_errors=True)
    files.create_folder(order.out / FOLDER)
    described = write_panels(panels, order.out / FOLDER)
    files.write_json(order.out / PANELS, {"panels": described})
