import builtins
import importlib.util
import json

import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.evaluation.zero_shot import gemma, tokenizer
from softbio_jax.evaluation.zero_shot.prompts import PROMPTS, load_prompts
from softbio_jax.evaluation.zero_shot.tokenizer import END, START, clean, stored_ids, tokenize
from tests.evaluation.fixtures import gemma_file


def needs(*names):
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


# From the reference's own tokenizer (perception_models at 3e352cc).
REFERENCE = {
    "a photo of a happy face": [320, 1125, 539, 320, 900, 1710],
    "A  Photo\tof\n a HAPPY face ": [320, 1125, 539, 320, 900, 1710],
    "": [],
    "caf&amp;eacute; &amp;amp; na\u00efve": [15304, 261, 1097, 35689, 563],
    "it\u2019s 1999 \U0001f600!": [585, 568, 272, 280, 280, 280, 12832, 256],
    "e\u0301te\u0301 \u4e2d\u6587": [3459, 39694, 19759, 255, 29032, 485],
    "don\u00e2\u20ac\u2122t": [847, 713],  # UTF-8 read as Latin text and repaired
    "\u00a0x\u2003y\u200b z": [343, 344, 9844, 345],
    "\u03a3\u0391\u03a3 \u0130": [139, 225, 138, 109, 139, 480, 328, 16384],
    "<|endoftext|>": [27, 347, 40786, 4160, 91, 285],
}


@pytest.fixture(autouse=True)
def fresh_cache():
    for encoders in (tokenizer.load_encoder, gemma.load_encoder):
        encoders.cache_clear()
    yield
    for encoders in (tokenizer.load_encoder, gemma.load_encoder):
        encoders.cache_clear()


@pytest.fixture
def without(monkeypatch):
    """Makes imports of the named packages fail."""

    def block(*names):
        original = builtins.__import__

        def guarded(name, *arguments, **keywords):
            if name.split(".")[0] in names:
                raise ImportError(name)
            return original(name, *arguments, **keywords)

        monkeypatch.setattr(builtins, "__import__", guarded)

    return block


@needs("instant_clip_tokenizer", "ftfy")
class TestLibrary:
    @pytest.mark.parametrize("text", REFERENCE)
    def test_ids_are_the_references(self, text):
        whole = [START, *REFERENCE[text], END]
        row = tokenize([text], context=32)[0]
        assert row.dtype == np.int32
        assert row.tolist() == whole + [0] * (32 - len(whole))

    def test_a_long_text_is_cut_and_ends_with_the_mark(self):
        exact, long = tokenize(["happy " * 30, "happy " * 31], context=32)
        assert exact.tolist() == [START, *[900] * 30, END] == long.tolist()
        assert tokenize(["happy " * 31], context=72)[0, 32:].tolist() == [END, *[0] * 39]

    def test_the_stored_ids_are_what_it_gives(self):
        texts = list(stored_ids())
        encode = tokenizer.load_encoder()
        assert [[START, *encode(clean(text)), END] for text in texts] == list(stored_ids().values())


class TestStored:
    @pytest.mark.parametrize("name", PROMPTS)
    def test_every_carried_prompt_needs_no_tokenizer(self, name, without):
        without("instant_clip_tokenizer", "tokenizers", "ftfy", "huggingface_hub")
        texts = load_prompts(name).texts()
        rows = tokenize(texts, context=32)
        assert rows.shape == (len(texts), 32)
        assert (rows[:, 0] == START).all()
        assert ((rows == END).sum(axis=1) == 1).all()
        assert len(np.unique(rows, axis=0)) == len(texts)

    def test_they_are_padded_and_cut_as_all_others(self):
        text = load_prompts("thesis").texts()[0]
        whole = stored_ids()[text]
        assert tokenize([text], context=16)[0].tolist() == whole + [0] * (16 - len(whole))
        assert tokenize([text], context=5)[0].tolist() == [*whole[:4], END]


@pytest.fixture
def hub_file(tmp_path):
    """A tokenizer.json of the form and size of CLIP's, without merges: each byte is a token."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    symbols = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
    tokens = symbols + [f"{symbol}</w>" for symbol in symbols]
    tokens += [f"filler{i}" for i in range(START - len(tokens))]
    marks = {"<|startoftext|>": START, "<|endoftext|>": END}
    vocabulary = {token: i for i, token in enumerate(tokens)} | marks
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content = {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 77},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": END,
            "pad_type_id": 0,
            "pad_token": "<|endoftext|>",
        },
        "added_tokens": [{"id": i, "content": mark, "special": True} | flags for mark, i in marks.items()],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "unk_token": "<|endoftext|>",
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "vocab": vocabulary,
            "merges": [],
        },
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    return path, vocabulary


@needs("tokenizers", "ftfy")
class TestFile:
    def ids(self, hub_file, text, context=12):
        path, vocabulary = hub_file
        names = {i: token for token, i in vocabulary.items()}
        row = tokenize([text], context=context, file=path)[0].tolist()
        end = row.index(END)
        assert row[0] == START
        assert set(row[end + 1 :]) <= {0}
        return [names[i] for i in row[1:end]]

    def test_texts_are_cleaned_and_neither_cut_nor_padded_by_the_file(self, hub_file):
        found = self.ids(hub_file, " Happy  &amp;amp; 7 ")
        assert found == ["h", "a", "p", "p", "y</w>", "&</w>", "7</w>"]

    def test_a_carried_prompt_is_encoded_by_the_file_too(self, hub_file):
        text = load_prompts("thesis").texts()[0]
        assert self.ids(hub_file, text, context=72)[:3] == ["a</w>", "p", "h"]

    def test_the_files_own_normaliser_is_off(self, hub_file):
        # After a "<" the accent comes in by the last unescaping and stays apart, as in the
        # reference; composed it would be two bytes that begin with another.
        assert self.ids(hub_file, "< e&#769;")[:2] == ["<</w>", "e</w>"]

    def test_its_marks_are_ordinary_text(self, hub_file):
        found = self.ids(hub_file, "<|endoftext|>", context=32)
        assert found[:3] == ["<", "|</w>", "e"]

    def test_a_broken_file_is_told(self, tmp_path):
        path = tmp_path / "tokenizer.json"
        path.write_text("{}")
        with pytest.raises(UserError, match="unreadable tokenizer file"):
            tokenize(["new"], context=8, file=path)

    def test_another_vocabulary_is_told(self, hub_file, tmp_path):
        content = json.loads(hub_file[0].read_text())
        del content["model"]["vocab"]["filler0"]
        other = tmp_path / "other.json"
        other.write_text(json.dumps(content))
        with pytest.raises(UserError, match=r"another tokenizer.*49408.*49407"):
            tokenize(["new"], context=8, file=other)


GEMMA = {"context": 8, "vocab": 320}


@needs("tokenizers", "huggingface_hub")
class TestGemma:
    def ids(self, tmp_path, *texts, **sizes):
        return gemma.tokenize(texts, **GEMMA | sizes, file=tmp_path / "tokenizer.json").tolist()

    def test_lower_case_without_a_start_mark_with_an_end_mark(self, tmp_path):
        v = gemma_file(tmp_path)
        wanted = [v["at"], v["\u2581at"], v["\u2581"], v["a"], 1, 0, 0, 0]
        assert self.ids(tmp_path, "At at a", "at AT A") == [wanted, wanted]
        assert gemma.tokenize(["at at a"], **GEMMA, file=tmp_path).tolist() == [wanted]

    def test_a_long_text_is_cut_and_ends_with_the_mark(self, tmp_path):
        v = gemma_file(tmp_path)
        exact, long = self.ids(tmp_path, "a" * 7, "a" * 30)
        assert exact == long == [v["a"]] * 7 + [1]
        assert self.ids(tmp_path, "a" * 30, context=40)[0] == [v["a"]] * 30 + [1] + [0] * 9

    def test_what_has_no_token_becomes_bytes_and_marks_are_ordinary_text(self, tmp_path):
        v = gemma_file(tmp_path)
        assert self.ids(tmp_path, "\u00e9")[0][:3] == [v["<0xC3>"], v["<0xA9>"], 1]
        assert self.ids(tmp_path, "<eos>")[0][:6] == [v["<0x3C>"], v["e"], v["o"], v["s"], v["<0x3E>"], 1]

    def test_another_vocabulary_is_told(self, tmp_path):
        gemma_file(tmp_path)
        with pytest.raises(UserError, match=r"another tokenizer.*Gemma's 256000 tokens, found 320.*google/"):
            self.ids(tmp_path, "at", vocab=256_000)

    def test_what_is_missing_is_one_line(self, tmp_path, monkeypatch):
        def unreachable(*arguments):
            raise OSError("offline")

        monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
        with pytest.raises(
            UserError, match=r"siglip2-base-patch16-224:tokenizer\.json.*by --tokenizer"
        ) as error:
            gemma.tokenize(["at"], **GEMMA)
        assert "\n" not in str(error.value)
        with pytest.raises(UserError, match=r"unreadable tokenizer file.*none\.json.*Gemma"):
            gemma.tokenize(["at"], **GEMMA, file=tmp_path / "none.json")

    def test_no_library(self, tmp_path, without):
        gemma_file(tmp_path)
        without("tokenizers")
        with pytest.raises(UserError, match=r"no tokenizer installed.*softbio-jax\[text,hub\]"):
            self.ids(tmp_path, "at")


class TestMissing:
    def test_no_ftfy(self, without):
        without("ftfy")
        with pytest.raises(UserError, match=r"ftfy is needed.*softbio-jax\[text\]"):
            clean("a new prompt")

    def test_no_tokenizer(self, without):
        without("instant_clip_tokenizer", "tokenizers")
        with pytest.raises(UserError, match=r"no tokenizer installed.*softbio-jax\[text,hub\]"):
            tokenizer.load_encoder()
