import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from digipath.cli import main
from digipath.models.bundle import Bundle
from digipath.models.spec import ModelSpec


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """A network of one layer that calls dark pixels a lesion."""
    import keras

    patch = keras.Input((None, None, 3), dtype="uint8")
    scaled = keras.layers.Rescaling(1 / 255)(patch)
    output = keras.layers.Conv2D(2, 1, activation="softmax", name="head")(scaled)
    model = keras.Model(patch, output)
    kernel = np.zeros((1, 1, 3, 2), np.float32)
    kernel[0, 0, 2, 1] = -40
    model.get_layer("head").set_weights([kernel, np.float32([0, 20])])
    folder = tmp_path_factory.mktemp("bundles") / "darkness"
    Bundle(model, ModelSpec(architecture="darkness", classes=("other", "lesion"), mpp=1.0, patch=128)).save(folder)
    return str(folder)


@pytest.fixture
def slide(tmp_path):
    image = np.full((240, 360, 3), 244, np.uint8)
    cv2.circle(image, (180, 120), 100, (190, 150, 225), -1)
    cv2.rectangle(image, (150, 90), (199, 129), (110, 60, 120), -1)
    path = tmp_path / "slides" / "one.png"
    path.parent.mkdir()
    cv2.imwrite(str(path), image)
    return path


def test_predict_writes_a_folder_a_slide_and_says_what_was_found(slide, bundle, tmp_path, capsys):
    (slide.parent / "two.png").write_bytes(slide.read_bytes())
    (slide.parent / "._two.png").write_bytes(b"what macOS leaves")
    code = main(["predict", str(slide.parent), "-o", str(tmp_path / "out"), "--mpp", "1", "--bundle", bundle, "-q"])
    out, err = capsys.readouterr()
    assert code == 0 and out.count("mm² lesion") == 2 and "2 slides: 2 ok, 0 failed" in err
    for name in ("one", "two"):
        info = json.loads((tmp_path / "out" / name / "result.json").read_text())
        assert info["areas"]["lesion_mm2"] == pytest.approx(50 * 40 / 1e6, rel=0.1)


def test_a_failing_slide_is_one_line_and_the_others_finish(slide, bundle, tmp_path, capsys):
    bad = slide.parent / "bad.svs"
    bad.write_bytes(b"no slide at all")
    code = main(["predict", str(bad), str(slide), "-o", str(tmp_path), "--mpp", "1", "--bundle", bundle, "-q"])
    out, err = capsys.readouterr()
    assert code == 1 and "one.png" in out and (tmp_path / "one" / "result.json").is_file()
    assert [line for line in err.splitlines() if "error" in line and "bad.svs" in line]
    assert "Traceback" not in err and not (tmp_path / "bad").exists()


def test_a_slide_without_resolution_asks_for_it(slide, bundle, tmp_path, capsys):
    assert main(["predict", str(slide), "-o", str(tmp_path), "--bundle", bundle, "-q"]) == 1
    assert "--mpp" in capsys.readouterr().err
    assert main(["info", str(slide), "--bundle", bundle]) == 1
    assert "360" in capsys.readouterr().out


def test_slides_of_one_name_do_not_replace_each_other(slide, bundle, tmp_path):
    other = slide.with_suffix(".jpg")
    cv2.imwrite(str(other), cv2.imread(str(slide)))
    code = main(["predict", str(slide), str(other), "-o", str(tmp_path), "--mpp", "1", "--bundle", bundle, "-q"])
    assert code == 0 and (tmp_path / "one.png").is_dir() and (tmp_path / "one.jpg").is_dir()


def test_files_of_one_dicom_slide_are_one_slide(data, bundle, tmp_path, capsys):
    for name in ("a.dcm", "b.dcm"):
        (tmp_path / name).write_bytes((data / "slides/boxes_0.dcm").read_bytes())
    assert main(["predict", str(tmp_path), "--dry-run", "--mpp", "1", "--bundle", bundle]) == 0
    out, err = capsys.readouterr()
    assert "a.dcm" in out and "b.dcm" not in out and "same slide" in err


def test_a_dry_run_predicts_nothing(slide, bundle, tmp_path, capsys):
    pattern = str(slide.parent / "*.png")
    code = main(["predict", pattern, "--dry-run", "--mpp", "1", "--bundle", bundle, "-o", str(tmp_path / "out")])
    assert code == 0 and "patches of" in capsys.readouterr().out and not (tmp_path / "out").exists()


def test_options_reach_the_result(slide, bundle, tmp_path):
    arguments = ["--mpp", "1", "--threshold", "0.3", "--heatmap-mpp", "4", "--overlap", "0.25", "--patch", "64"]
    region = ["--region", "100,60,120,100", "--threads", "1", "--batch", "2"]
    out = ["-o", str(tmp_path), "--bundle", bundle, "-q"]
    assert main(["predict", str(slide), *out, *arguments, *region]) == 0
    info = json.loads((tmp_path / "one" / "result.json").read_text())
    assert info["threshold"] == 0.3 and info["mpp"]["heatmap"] == 4 and info["region"] == [100, 60, 120, 100]
    assert info["passes"][0]["size"] == [64, 64] and info["passes"][0]["stride"] == [48, 48]


def test_ctrl_c_ends_every_slide_and_leaves_no_result(slide, bundle, tmp_path, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("digipath.inference.batching.BackOff.__call__", stop)
    arguments = ["predict", str(slide), "-o", str(tmp_path / "out"), "--mpp", "1", "--bundle", bundle, "-q"]
    assert main([*arguments, "--runtime", "keras"]) == 130
    assert "stopped" in capsys.readouterr().err and not (tmp_path / "out" / "one").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["predict"],
        ["predict", "x.svs"],
        ["predict", "none-*.svs", "-o", "out"],
        ["predict", "x.svs", "-o", "out", "--region", "1,2"],
        ["predict", "x.svs", "-o", "out", "--overlap", "50"],
        ["unknown"],
    ],
)
def test_wrong_usage_exits_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and "usage:" in capsys.readouterr().err


def test_debug_shows_the_traceback(tmp_path, capsys):
    assert main(["info", str(tmp_path / "none.svs"), "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_info_describes_a_slide(slide, bundle, capsys):
    assert main(["info", str(slide), "--mpp", "1", "--bundle", bundle]) == 0
    out = capsys.readouterr().out
    assert "360" in out and "user" in out and "mm2" in out and "patches, about" in out


def test_a_console_without_a_sign_for_square_millimetres_fails_no_slide(slide, bundle, tmp_path):
    arguments = ["predict", str(slide), "-o", str(tmp_path), "--mpp", "1", "--bundle", bundle, "-q"]
    code = f"from digipath.cli import main\nraise SystemExit(main({arguments!r}))"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0 and "mm? lesion" in done.stdout, done.stderr


def test_help_and_version_import_nothing_heavy():
    code = (
        "import sys\nfrom digipath.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit as stop:\n"
        "    assert not stop.code\nheavy = {'tensorflow', 'keras', 'cv2', 'scipy', 'shapely', 'numpy', 'openslide'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("predict", "demo", "info", "bundles", "doctor"))


def test_importing_digipath_imports_no_learning_framework():
    code = (
        "import sys\nimport digipath\nfrom digipath import Segmenter, Segmentation, open_slide, Bundle, ModelSpec\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
