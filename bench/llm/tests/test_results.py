# SPDX-License-Identifier: Apache-2.0
"""Results that are kept, and tables of them."""

import pytest
import results


def test_a_run_goes_on_where_it_ended(tmp_path):
    path = tmp_path / "new" / "r.jsonl"
    first = results.Results(path)
    first.add({"n": 512, "method": "exact"}, {"nats": 1.5})
    first.add({"n": 512, "method": "hyper"}, {"nats": 1.6})
    again = results.Results(path)
    assert again.rows == first.rows
    assert again.find({"method": "hyper", "n": 512}) == {"n": 512, "method": "hyper", "nats": 1.6}
    assert again.find({"method": "hyper", "n": 1024}) is None
    assert again.find({"method": "hyper", "n": 512, "text": "bible"}) is None


def test_a_line_that_was_cut_off_is_run_again(tmp_path):
    path = tmp_path / "r.jsonl"
    results.Results(path).add({"n": 1}, {"nats": 1.0})
    with path.open("a") as file:
        file.write('{"n": 2, "na')
    kept = results.Results(path)
    assert kept.find({"n": 2}) is None
    kept.add({"n": 2}, {"nats": 2.0})
    assert [row["n"] for row in results.read(path)] == [1, 2]


@pytest.mark.parametrize(("markdown", "expected"), [
    (False, "name       nats\nexact       1.5\nmultipole  1.25"),
    (True, "| name | nats |\n| --- | ---: |\n| exact | 1.5 |\n| multipole | 1.25 |"),
])
def test_table(markdown, expected):
    assert results.table(["name", "nats"], [["exact", "1.5"], ["multipole", "1.25"]],
                         markdown) == expected
