"""Annotations of COCO, CVAT and LabelMe become the masks that those programs would make."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from core.errors import InputError
from plugins.segmentation.data.labelled import objects_of, pairs_of, read_labelled
from plugins.segmentation.io.annotations import areas

HIGH, WIDE = 30, 40
SQUARE = [5, 5, 15, 5, 15, 12, 5, 12]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "deep/c.png"):
        Image.fromarray(np.zeros((HIGH, WIDE), np.uint8)).save(folder / name)
    return folder


def coco(path, annotations, *, names=("a.png",), size=(HIGH, WIDE), categories=("cell", "dust")):
    document = {
        "images": [
            {"id": i, "file_name": name, "height": size[0], "width": size[1]}
            for i, name in enumerate(names)
        ],
        # The numbers decide the order, not the places.
        "categories": [
            {"id": i, "name": name} for i, name in reversed([*enumerate(categories, start=7)])
        ],
        "annotations": [
            {"id": i, "image_id": 0, "category_id": 7, **one} for i, one in enumerate(annotations)
        ],
    }
    path.write_text(json.dumps(document))
    return path


def cvat(path, shapes, name="a.png", size=(HIGH, WIDE)):
    path.write_text(
        "<annotations><version>1.1</version><meta><task><labels><label><name>wall</name></label>"
        "<label><name>cell</name></label></labels></task></meta>"
        f'<image id="0" name="{name}" width="{size[1]}" height="{size[0]}">{shapes}</image>'
        "</annotations>"
    )
    return path


def labelme(path, shapes, image="a.png", size=(HIGH, WIDE)):
    document = {"imagePath": image, "imageHeight": size[0], "imageWidth": size[1]}
    path.write_text(json.dumps({**document, "imageData": None, "shapes": shapes}))
    return path


def read(images, masks, **options):
    return read_labelled(pairs_of(images, masks), **options)


def mask_of(images, masks, **options):
    found = read(images, masks, **options)
    assert found.names == ("a",)
    return found.masks[0].numpy(), found.classes.names


def test_coco_polygons_and_both_kinds_of_runs(images, tmp_path):
    counts = [5 * HIGH + 5] + [7, HIGH - 7] * 9 + [7]
    counts += [HIGH * WIDE - sum(counts)]
    text = "".join(compressed(counts))
    assert areas.decompressed(text) == counts
    expected = np.zeros((HIGH, WIDE), int)
    expected[5:12, 5:15] = 1
    for given in ([SQUARE], {"counts": counts, "size": [HIGH, WIDE]},
                  {"counts": text, "size": [HIGH, WIDE]}):  # fmt: skip
        mask, names = mask_of(images, coco(tmp_path / "c.json", [{"segmentation": given}]))
        assert np.array_equal(mask, expected)
        assert names == ("background", "cell")


def compressed(counts):
    """COCO's string of run lengths, by its definition."""
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        while True:
            low, value = value & 31, value >> 5
            more = value != (-1 if low & 16 else 0)
            yield chr(48 + low + 32 * more)
            if not more:
                break


def test_coco_parts_are_one_object_and_later_shapes_lie_over_earlier_ones(images, tmp_path):
    parts = {"segmentation": [[1, 1, 4, 1, 4, 4, 1, 4], [8, 8, 12, 8, 12, 12, 8, 12]]}
    over = {"segmentation": [[3, 3, 9, 3, 9, 9, 3, 9]], "category_id": 8}
    file = coco(tmp_path / "c.json", [parts, over])
    mask, names = mask_of(images, file)
    assert names == ("background", "cell", "dust")
    assert [int((mask == k).sum()) for k in (1, 2)] == [9 + 16 - 1 - 1, 36]
    (pair,) = pairs_of(images, file)
    objects = objects_of(pair)
    assert [int((objects == k).sum()) for k in (1, 2)] == [23, 36]
    mask, names = mask_of(images, file, instances=True)
    assert names == ("background", "object")
    assert (mask == 1).sum() == 23 + 36


def test_cvat_boxes_masks_ellipses_and_heights(images, tmp_path):
    shapes = (
        '<box label="cell" xtl="2" ytl="3" xbr="10" ybr="7" z_order="2"/>'
        '<polygon label="wall" points="0,0;20,0;20,20;0,20" z_order="1"/>'
        '<mask label="cell" rle="1, 2, 3" left="30" top="20" width="3" height="2" z_order="0"/>'
        '<tag label="cell"/>'
    )
    mask, names = mask_of(images, cvat(tmp_path / "c.xml", shapes))
    assert names == ("background", "wall", "cell")  # the task's order
    expected = np.zeros((HIGH, WIDE), int)
    expected[:20, :20] = 1
    expected[3:7, 2:10] = 2
    expected[20, 31:33] = 2
    assert np.array_equal(mask, expected)
    turned = '<box label="cell" xtl="10" ytl="10" xbr="20" ybr="14" rotation="90"/>'
    mask, _ = mask_of(images, cvat(tmp_path / "c.xml", turned))
    expected[:] = 0
    expected[7:17, 13:17] = 1
    assert np.array_equal(mask, expected)
    round_one = '<ellipse label="cell" cx="20" cy="15" rx="10" ry="5"/>'
    mask, _ = mask_of(images, cvat(tmp_path / "c.xml", round_one))
    assert mask.sum() == pytest.approx(np.pi * 50, rel=0.05)


def test_labelme_shapes_are_pillows(images, tmp_path):
    image = Image.new("L", (WIDE, HIGH))
    draw = ImageDraw.Draw(image)
    shapes = []
    for kind, points, label in (
        ("polygon", [[3.3, 4.7], [30.1, 6.2], [12.9, 25.4]], "b"),
        ("rectangle", [[35, 25], [20.5, 18]], "a"),
        ("circle", [[30, 10], [34, 13]], "c"),
        ("polygon", [[-4, -4], [5, -4], [5, 3]], "a"),
    ):
        shapes.append({"label": label, "points": points, "shape_type": kind})
        xy, value = [tuple(p) for p in points], "_abc".index(label)
        (x, y), (u, v) = xy[0], xy[1]
        if kind == "polygon":
            draw.polygon(xy, outline=value, fill=value)
        elif kind == "rectangle":
            draw.rectangle((min(x, u), min(y, v), max(x, u), max(y, v)), outline=value, fill=value)
        else:
            draw.ellipse((x - 5, y - 5, x + 5, y + 5), outline=value, fill=value)
    mask, names = mask_of(images, labelme(tmp_path / "a.json", shapes))
    assert names == ("background", "a", "b", "c")
    assert np.array_equal(mask, np.asarray(image))


def test_labelme_masks_groups_and_pixels_without_a_class(images, tmp_path):
    stored = io.BytesIO()
    Image.fromarray(np.eye(4, dtype=bool)).save(stored, "PNG")
    text = base64.b64encode(stored.getvalue()).decode()
    one = {"label": "a", "shape_type": "mask", "points": [[10, 5], [13, 8]], "mask": text}
    box = {"shape_type": "rectangle", "group_id": 4}
    shapes = [one, {**box, "label": "a", "points": [[20, 20], [21, 21]]},
              {**box, "label": "a", "points": [[25, 20], [26, 21]]},
              {"label": "__ignore__", **box, "points": [[0, 0], [2, 2]]}]  # fmt: skip
    file = labelme(tmp_path / "a.json", shapes)
    mask, names = mask_of(images, file)
    assert names == ("background", "a")
    assert np.array_equal(mask[5:9, 10:14], np.eye(4))
    assert (mask[:3, :3] == 255).all()
    assert (mask == 1).sum() == 4 + 8
    assert set(np.unique(objects_of(pairs_of(images, file)[0]))) == {0, 1, 2}
    mask, _ = mask_of(images, file, sparse=True)
    assert (mask == 255).sum() == HIGH * WIDE - 12


def test_names_are_matched_by_path_then_by_name(images, tmp_path):
    one = [{"segmentation": [SQUARE]}]
    for name, expected in (("deep/c.png", "deep/c"), ("c.png", "deep/c"), ("b.png", "b"),
                           ("/home/me/plates/a.tif", "a"), ("x\\a.png", "a")):  # fmt: skip
        (pair,) = pairs_of(images, coco(tmp_path / "c.json", one, names=(name,)))
        assert pair.name == expected
    folder = tmp_path / "json"
    folder.mkdir()
    shape = [{"label": "a", "points": [[0, 0], [3, 3], [0, 3]]}]
    labelme(folder / "a.json", shape)
    labelme(folder / "c.json", shape, image="..\\images\\deep\\c.png")
    labelme(folder / "d.json", shape, image="d.png")
    assert [pair.name for pair in pairs_of(images, folder)] == ["a", "deep/c"]


def refused(images, masks, **options):
    with pytest.raises(InputError) as caught:
        read(images, masks, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_bad_annotations_are_one_sentence(images, tmp_path):
    one, file = [{"segmentation": [SQUARE]}], tmp_path / "c.json"
    wrong = coco(file, one, size=(HIGH, 7))
    assert "c.json of 'a.png': 7 x 30 pixels, its image" in refused(images, wrong)
    assert "no image there has a shape" in refused(images, coco(file, []))
    strange = coco(file, one, names=("z.png",))
    assert "none of its 1 images, such as 'z.png', is in the folder" in refused(images, strange)
    assert "a shape of the class 'cell'; classes are background, wall" in refused(
        images, coco(file, one), classes=("wall",)
    )
    assert "annotation 0 has no polygon or mask" in refused(images, coco(file, [{"bbox": [1] * 4}]))
    twice = coco(file, [*one, {**one[0], "image_id": 1}], names=("a.png", "x/a.png"))
    assert "two annotations of one image" in refused(images, twice)
    short = coco(file, [{"segmentation": {"counts": [3], "size": [HIGH, WIDE]}}])
    assert "run lengths of 3 pixels in all, expected 1200" in refused(images, short)
    other = coco(file, [{"segmentation": {"counts": [6], "size": [2, 3]}}])
    assert "a mask of 3 x 2, the image has 40 x 30" in refused(images, other)
    for document in ("{", "[]", '{"a": 1}', '{"shapes": 3}', "[" * 200, '{"shapes": [{}]}'):
        file.write_text(document)
        assert "cannot be read as" in (text := refused(images, file)) or "not annotations" in text
    line = '<polyline label="cell" points="1,1;2,2"/>'
    assert "a polyline of cell, which has no area" in refused(
        images, cvat(tmp_path / "c.xml", line)
    )
    beyond = '<mask label="cell" rle="4" left="39" top="0" width="2" height="2"/>'
    assert "outside the image of 40 x 30" in refused(images, cvat(tmp_path / "c.xml", beyond))
    (tmp_path / "c.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]><annotations/>')
    assert "document type declaration" in refused(images, tmp_path / "c.xml")
    assert "does not exist; expected --masks" in refused(images, tmp_path / "nothing")


def test_classes_of_a_classifier_are_found_by_their_names(images, tmp_path):
    classes = read(images, coco(tmp_path / "c.json", [{"segmentation": [SQUARE]}])).classes
    mask, _ = mask_of(
        images, cvat(tmp_path / "c.xml", '<box label="cell" xtl="0" ytl="0" xbr="2" ybr="2"/>'),
        classes=classes,
    )  # fmt: skip
    assert mask.sum() == 4
