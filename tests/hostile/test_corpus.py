"""All that fuzzing ever found is read or refused in the project's own words; and the fuzzing itself finds what there is."""

import os
import time

import fuzz
import numpy as np
import pytest
from readers import READERS, Reader


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A function from a reader's name to the reader, prepared once."""
    known = {}

    def reader(name):
        if name not in known:
            known[name] = READERS[name]()
            known[name].prepare(tmp_path_factory.mktemp(name))
        return known[name]

    return reader


@pytest.mark.parametrize("name, where, path", fuzz.kept(), ids=lambda part: str(part).rsplit("/corpus/")[-1])
def test_what_once_found_something_is_read_or_refused(name, where, path, prepared):
    """every file that fuzzing ever found something with -> read, or refused in the project's own words"""
    _, found = fuzz.read(prepared(name), where, path.read_bytes())
    assert found is None


@pytest.mark.parametrize("name", READERS)
def test_valid_files_are_accepted_or_refused_for_what_they_are(name, prepared):
    """the valid files that fuzzing begins with -> read, most of them; the others are refused for what they are

    Some are there to be refused: pictures of several frames, masks in colours.
    """
    reader = prepared(name)
    outcomes = [fuzz.read(reader, *seed) for seed in reader.seeds()]
    assert [found for _, found in outcomes if found] == []
    assert sum(outcome == "accepted" for outcome, _ in outcomes) >= len(outcomes) / 2


@pytest.mark.parametrize("name", READERS)
def test_a_case_follows_from_its_number_and_another_seed_gives_another(name, prepared):
    """a case's number and seed, twice; another seed -> the same broken file; another one"""
    reader = prepared(name)
    seeds, last = reader.seeds(), len(reader.seeds()) + 20
    assert reader.seeds() == seeds

    def cases(seed):
        return [fuzz.case(name, reader, seeds, seed, number) for number in range(len(seeds), last)]

    assert cases(0) == cases(0) != cases(1)
    assert cases(0) != seeds[-1:] * 20


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_few_cases_of_each_reader_find_nothing(name):
    """40 files of each kind, the valid ones and then broken at random -> read, or refused in the project's own words"""
    found = fuzz.fuzz(name, READERS[name], seconds=60, most=40)
    assert found["cases"] == 40 and found["findings"] == [] and found["accepted"] > 0


class Planted(Reader):
    """Case 3 does something that it must not; the others are accepted or refused."""

    declared = (FileNotFoundError,)

    def seeds(self):
        return [("file", bytes([number])) for number in range(8)]

    def read(self, where, content):
        if content == b"\3":
            self.misbehave()

    def misbehave(self):
        raise NotImplementedError


class Crashes(Planted):
    def misbehave(self):
        os.abort()


class Hangs(Planted):
    def misbehave(self):
        time.sleep(60)


class TakesMemory(Planted):
    def misbehave(self):
        np.ones(2**30)


class TakesMemoryAndSaysSomethingElse(Planted):
    def misbehave(self):
        try:
            np.ones(2**30)
        except MemoryError as error:
            raise FileNotFoundError("damaged") from error


class Undeclared(Planted):
    def misbehave(self):
        {}["missing"]


class SomebodyElsesWords(Planted):
    """A declared exception, but not the project's own."""

    def misbehave(self):
        open("/no such file")


@pytest.mark.slow
@pytest.mark.parametrize(
    "planted, kind, what",
    [
        (Crashes, "crash", "SIGABRT"),
        (Hangs, "hang", "no end in 2 s"),
        (TakesMemory, "memory", "MemoryError"),
        (TakesMemoryAndSaysSomethingElse, "memory", "MemoryError"),
        (Undeclared, "exception", "KeyError"),
        (SomebodyElsesWords, "exception", "FileNotFoundError"),
    ],
)
def test_what_is_planted_is_found_kept_and_gone_past(planted, kind, what, tmp_path):
    """a reader that crashes, hangs, takes 8 GiB, or raises what is not its own -> found, the file kept, the next cases read"""
    found = fuzz.fuzz("planted", planted, seconds=60, most=8, patience=2, memory=2**30, write=tmp_path)
    (finding,) = found["findings"]
    assert (finding["kind"], finding["what"], finding["case"], finding["times"]) == (kind, what, 3, 1)
    assert found["cases"] == 8 and found["accepted"] >= 4
    ((name, where, path),) = fuzz.kept(tmp_path)
    assert (name, where, path.read_bytes()) == ("planted", "file", b"\3")
