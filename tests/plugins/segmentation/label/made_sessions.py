"""A folder of small images to label, and a server of it."""

import threading
from contextlib import contextmanager

import numpy as np
from PIL import Image

from core.request import Machine
from plugins.segmentation.features.filters import Filters
from plugins.segmentation.label.server import Server
from plugins.segmentation.label.session import Session, classes_for, items_of
from plugins.segmentation.request import Labels

SIZE = (48, 64)
CLASSES = ("ground", "disc")


def disc(size=SIZE):
    """Where a disc in the middle is."""
    y, x = np.mgrid[: size[0], : size[1]]
    return (y - size[0] / 2) ** 2 + (x - size[1] / 2) ** 2 < (min(size) / 3) ** 2


def images(folder, names=("a", "b"), size=SIZE):
    """A bright disc on a dark ground, with noise."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        noise = np.random.default_rng(seed).normal(0, 8, size)
        grey = np.clip(np.where(disc(size), 170, 60) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(np.dstack([grey] * 3)).save(folder / f"{name}.png")
    return folder


def session_of(folder, masks=None, classes=CLASSES, **more):
    items = items_of(folder, masks)
    named = classes_for(items, Labels(masks=masks, classes=classes), folder)
    features = Filters(Machine(), scales=(1.0, 2.0))
    return Session(items, named, features, masks or folder, **more)


@contextmanager
def served(session):
    """A server of the session, in a thread."""
    with Server(session) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        session.start()
        yield server
        session.end()
        server.shutdown()
        thread.join()
