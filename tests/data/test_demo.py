"""The demo data: complete, the same on every call, and answerable only with its pictures."""

import json
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from PIL import Image

from hpcjobs.data import demo, demo_pictures
from hpcjobs.data.check import check_samples
from hpcjobs.data.dataset import MgmDataset
from hpcjobs.data.demo_captions import KINDS, read_captions
from hpcjobs.data.llava_json import Sample, read_samples
from hpcjobs.data.template import SPECIAL_TOKENS, load_tokenizer
from hpcjobs.run.errors import InputError
from hpcjobs.run.files import read_json

PICTURE_TOKENS, MAX_LENGTH = 64, 256  # of conf/model/mgm_tiny.yaml


def dataset(root: Path, split: str) -> MgmDataset:
    samples, bad = read_samples(root / f"{split}.json")
    assert not bad
    tokenizer = load_tokenizer(root / "tokenizer.json")
    return MgmDataset(samples, tokenizer, root, PICTURE_TOKENS, 128, MAX_LENGTH)


def content(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def question(sample: Sample) -> str:
    return sample.turns[0].text.replace("<image>", "").strip()


@pytest.mark.parametrize(
    ("split", "samples", "pictures"), [("train", 600, 586), ("heldout", 96, 96)]
)
def test_every_sample_is_sound(demo_root, split, samples, pictures):
    made = dataset(demo_root, split)
    assert check_samples(made, "decode") == []
    assert len(made) == samples
    assert sum(sample.picture is not None for sample in made.samples) == pictures
    counted = read_json(demo_root / "manifest.json")[split]
    assert (counted["samples"], counted["pictures"]) == (samples, pictures)
    assert max(len(made[index].input_ids_L) for index in range(0, samples, 7)) < MAX_LENGTH


def test_every_picture_belongs_to_one_sample_and_no_two_are_alike(demo_root):
    named = [
        s.picture
        for split in ("train", "heldout")
        for s in dataset(demo_root, split).samples
        if s.picture
    ]
    files = content(demo_root / "pictures")
    assert sorted(named) == sorted(f"pictures/{name}" for name in files)
    assert len(set(files.values())) == len(files)
    assert all(max(Image.open(demo_root / name).size) == 160 for name in named[::50])


def test_all_kinds_of_sample_are_there(demo_root):
    train = dataset(demo_root, "train").samples
    assert Counter(len(sample.turns) for sample in train) == {2: 548, 4: 52}
    assert sum(sample.picture is None for sample in train) == 14
    assert {Path(s.picture).suffix for s in train if s.picture} == {".png", ".jpg"}
    words = [sample for sample in train if sample.turns[1].text.startswith("The word is")]
    assert len({sample.turns[1].text for sample in words}) == 12


def test_the_question_does_not_give_the_answer_away(demo_root):
    answers = defaultdict(Counter)
    for sample in dataset(demo_root, "train").samples:
        if sample.picture:
            answers[question(sample)][sample.turns[1].text] += 1
    for asked, given in answers.items():
        assert max(given.values()) / given.total() <= 0.2, asked
    assert len(set().union(*answers.values())) == 26 * len(KINDS) + 12 + 6


def test_heldout_questions_and_answers_were_all_trained_with_other_pictures(demo_root):
    trained = {
        turn.text.replace("<image>\n", "")
        for s in dataset(demo_root, "train").samples
        for turn in s.turns
    }
    for sample in dataset(demo_root, "heldout").samples:
        assert question(sample) in trained
        assert sample.turns[1].text in trained


def test_exchanging_heldout_pictures_gives_every_conversation_a_wrong_one(demo_root):
    heldout = dataset(demo_root, "heldout")
    exchanged = heldout.with_shuffled_pictures().samples
    owner = {sample.picture: sample for sample in heldout.samples}
    for sample in exchanged:
        true_one = owner[sample.picture]
        assert sample.turns[1].text != true_one.turns[1].text


def test_the_tokenizer_begins_like_gemmas_and_encodes_anything(demo_root):
    tokenizer = load_tokenizer(demo_root / "tokenizer.json")
    assert [tokenizer.token_to_id(t) for t in ("<pad>", "<eos>", "<bos>")] == [0, 1, 2]
    assert tokenizer.get_vocab_size() <= 640
    for text in ("The word is HARBOUR.", "naïve 漢字 🦭\n\tx"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert len(tokenizer.encode("user\n").ids) == len(tokenizer.encode("model\n").ids) == 2
    assert all(tokenizer.token_to_id(token) < 5 for token in SPECIAL_TOKENS)


def test_the_same_bytes_are_made_in_every_process_also_by_two_at_once(demo_root, tmp_path):
    root = tmp_path / "new" / "demo"
    code = f"from pathlib import Path; from hpcjobs.data import demo; demo.prepare(Path({str(root)!r}))"
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert content(root) == content(demo_root)
    assert [path.name for path in root.parent.iterdir()] == ["demo"]


def test_data_that_is_there_is_left_alone(demo_root, monkeypatch):
    def fail(*_: object) -> None:
        pytest.fail("built again")

    monkeypatch.setattr(demo, "_build", fail)
    before = (demo_root / "train.json").stat()
    demo.prepare(demo_root)
    assert (demo_root / "train.json").stat() == before


@pytest.mark.parametrize("manifest", [None, {"demo": 0}, ["demo"]])
def test_a_directory_with_something_else_is_not_touched(tmp_path, manifest):
    (tmp_path / "mine.txt").write_text("mine")
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        InputError, match=r"holds something other than version 1 .* set data\.root=DIR"
    ):
        demo.prepare(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_build_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(directory: Path) -> None:
        (directory / "half").write_text("x")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo, "_build", fail)
    with pytest.raises(
        InputError, match=r"cannot make the demo data .*: No space left on device; set data\.root"
    ):
        demo.prepare(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


def test_without_the_packages_that_bring_the_pictures_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_pictures.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pictures of skimage, .* pip install 'hpcjobs\[demo\]'"):
        demo.prepare(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


def test_making_the_demo_does_not_import_the_packages_that_bring_the_pictures(tmp_path):
    code = (
        "import sys; from hpcjobs.data.demo_captions import read_captions;"
        "from hpcjobs.data.demo_pictures import load_sources;"
        "load_sources(read_captions().scenes[:1]);"
        "sys.exit(any(name in sys.modules for name in ('skimage', 'sklearn', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_scenes_share_an_answer(kind):
    answers = [scene.answer(kind) for scene in read_captions().scenes]
    assert len(set(answers)) == len(answers) == 26
