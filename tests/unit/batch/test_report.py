"""What a batch's report tells, and its results read back."""

from __future__ import annotations

import itertools
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from batch_tools import by_prompt, rows
from stub_server import CHAT, MODEL, StubService, chat, chat_body, error, reply

from foundry_lab import FoundryAPIClient
from foundry_lab.batch import AdaptiveConcurrency
from foundry_lab.batch.index import Index
from foundry_lab.batch.output import BatchOutput
from foundry_lab.batch.report import MAX_SAMPLES, BatchReport, BatchStoppedError
from foundry_lab.batch.result import Outcome
from foundry_lab.errors import (
    FoundryError,
)


async def test_without_an_output_the_results_are_in_the_report(client: FoundryAPIClient) -> None:
    report = await client.complete_batch(["one", "two"])
    assert report.output is None
    assert [result.content for result in report.results()] == ["hello", "hello"]


async def test_answers_are_validated(client: FoundryAPIClient, stub: StubService) -> None:
    class Label(msgspec.Struct):
        label: str

    stub.on("POST", CHAT, chat('{"label": "good"}'), chat("nothing of the kind"))
    report = await client.complete_batch(
        ["one", "two"], concurrency=1, response_model=Label, parse_attempts=2
    )
    good, bad = report.results()
    assert good.completion is not None
    assert good.completion.parsed == Label("good")
    assert bad.error is not None
    assert bad.error.code == "structured_output"
    assert bad.content == "nothing of the kind"  # what it did say is kept
    assert report.failures == {"structured_output": 1}


@pytest.mark.parametrize("kind", [list, iter])
async def test_an_item_with_a_shape_of_its_own_is_read_by_that(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path, kind: Any
) -> None:
    """It was read by the shape of the others: an answer that was right was an error "of an earlier run"."""

    class Label(msgspec.Struct):
        label: str

    class Count(msgspec.Struct):
        count: int

    stub.on("POST", CHAT, chat('{"label": "good"}'), chat('{"count": 3}'), chat("12"))
    items: list[Any] = [{"prompt": "a"}, {"prompt": "b", "response_model": Count}]
    for _ in range(2):  # the second time nothing is asked, and all is read again
        report = await client.complete_batch(
            kind(items), output=tmp_path / "out.jsonl", response_model=Label, concurrency=1
        )
        read = {result.custom_id: result for result in report.results()}
        assert [each.error for each in read.values()] == [None, None]
        assert [each.completion.parsed for each in read.values()] == [Label("good"), Count(3)]  # type: ignore[union-attr]
        assert stub.count("POST", CHAT) == 2
    alone = await client.complete_batch(kind([{"prompt": "c", "parser": int}, "d"]), concurrency=1)
    parsed = [result.completion.parsed for result in alone.results()]  # type: ignore[union-attr]
    assert parsed == [12, None]
    copied = pickle.loads(pickle.dumps(alone))
    assert copied.done == 2


async def test_a_policy_is_told_in_words(client: FoundryAPIClient, stub: StubService) -> None:
    stub.on("POST", CHAT, chat("yes"))
    report = await client.complete_batch(["one"], concurrency=AdaptiveConcurrency(3, maximum=8))
    assert "with concurrency adaptive, 1 to 8" in str(report)


async def test_a_parser_that_fails_stops_nothing(client: FoundryAPIClient) -> None:
    def parser(text: str) -> str:
        raise KeyError(text)

    report = await client.complete_batch(["one", "two"], parser=parser)
    assert report.failed == 2
    assert all(result.error and "KeyError" in result.error.message for result in report.results())


async def test_a_parser_that_refuses_an_earlier_runs_answer_is_an_error_of_that_item(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    stub.on("POST", CHAT, chat("12"), chat("twelve"))
    for parser in (str, int):  # a parser is no part of the request, so the second run has nothing to ask
        report = await client.complete_batch(
            ["a", "b"], output=tmp_path / "out.jsonl", parser=parser, ordered=True, concurrency=1
        )
    good, bad = report.results()
    assert good.completion is not None
    assert good.completion.parsed == 12
    assert bad.error is not None
    assert bad.content == "twelve"
    assert "earlier run, and doesn't fit int of this one (ValueError: invalid" in bad.error.message


async def test_results_claim_no_latency(client: FoundryAPIClient) -> None:
    """The format has no place for it; 0 s would be believed, and NaN makes every sum NaN."""
    (result,) = (await client.complete_batch(["a"])).results()
    assert result.completion is not None
    assert result.completion.latency_s is None
    assert result.completion.tokens_per_s is None


async def test_results_are_rows_of_a_table(client: FoundryAPIClient, stub: StubService) -> None:
    stub.on("POST", CHAT, by_prompt)
    report = await client.complete_batch(["a", "bad"], ordered=True, parser=len)
    good, bad = (result.to_dict() for result in report.results())
    assert good == {
        "custom_id": "item-000001",
        "content": "re: a",
        "parsed": 5,
        "model": MODEL,
        "finish_reason": "stop",
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "status": 200,
        "error_code": None,
        "error": None,
    }
    assert bad.keys() == good.keys()
    assert (bad["content"], bad["status"], bad["error_code"]) == (None, 400, "http_400")
    assert "no such thing" in bad["error"]


async def test_an_item_that_was_not_sent_has_no_latency(client: FoundryAPIClient) -> None:
    """Else the bar's p95, and the figure's points, would be those of requests that nobody made."""
    report = await client.complete_batch(iter(["a", 7, 7, 7]))
    assert (len(report.samples), len(report.answered_s())) == (4, 1)
    assert [sample.latency_s for sample in report.samples].count(None) == 3


async def test_an_empty_list_is_an_empty_report(client: FoundryAPIClient) -> None:
    report = await client.complete_batch([])
    assert (report.total, report.done) == (0, 0)
    assert "0 answered" in str(report)


@pytest.mark.parametrize("named", [True, False])
async def test_a_stopped_batchs_error_gets_out_of_a_process_with_its_report(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path, named: bool
) -> None:
    stub.on("POST", CHAT, chat("fine"), error(500, "broken for good", "server_error"))
    output = tmp_path / "out.jsonl" if named else None
    with pytest.raises(BatchStoppedError) as caught:
        await client.complete_batch(
            [str(n) for n in range(100)], output=output, wait_for_service=0.2, parser=lambda text: text
        )
    report = pickle.loads(pickle.dumps(caught.value)).report
    assert str(report) == str(caught.value.report)
    if named:
        assert sum(result.error is None for result in report.results()) == 1
    else:
        with pytest.raises(FoundryError, match="only the report that the batch returned"):
            list(report.results())


async def test_the_report_tells_the_run(client: FoundryAPIClient, stub: StubService) -> None:
    stub.on("POST", CHAT, by_prompt)
    report = await client.complete_batch(["a", "b", "bad"])
    text = str(report)
    assert "2 answered, 1 failed, 0 done before" in text
    assert "1 http_400" in text
    assert report.latency_s(50) is not None
    assert report.items_per_s > 0


async def test_samples_stay_bounded_and_spread_over_the_run(client: FoundryAPIClient) -> None:
    output = BatchOutput(None, Index())
    report = BatchReport(output, None, 2)
    for number in range(5 * MAX_SAMPLES):
        report.add(Outcome("x", "", b"", "ok", float(number)))
    latencies = [sample.latency_s for sample in report.samples]
    steps = {b - a for a, b in itertools.pairwise(latencies)}
    assert len(latencies) <= MAX_SAMPLES
    assert steps == {8.0}
    assert report.latency_s(50) == pytest.approx(2.5 * MAX_SAMPLES, rel=0.01)
    output.close()


async def test_the_services_own_words_about_an_error_are_kept(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path
) -> None:
    said = {"message": "too hot\n", "type": "range", "code": "hot", "param": "temperature"}
    stub.on(
        "POST",
        CHAT,
        reply(400, {"error": said}),
        reply(400, {"error": {"message": "no. " * 25_000, "type": "long"}}),
        reply(200, json.dumps(chat_body(), indent=1).encode()[:-1] + b', "more": "\xff"}'),
        reply(502, "<html>a proxy</html>"),
    )
    output = tmp_path / "out.jsonl"
    await client.complete_batch([*"abcd"], output=output, concurrency=1)
    bodies = [row["response"]["body"] for row in rows(output)]
    assert bodies[0]["error"] == said | {"message": "too hot"}
    assert bodies[1]["error"]["type"] == "long" and output.stat().st_size < 50_000
    assert bodies[2]["more"] == "\N{REPLACEMENT CHARACTER}"
    assert bodies[3]["error"]["type"] == "api_error" and "a proxy" in bodies[3]["error"]["message"]


async def test_results_are_found_from_another_folder(
    client: FoundryAPIClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a %cd in a notebook; or worse, another output of that name would be there."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    report = await client.complete_batch(["one"], output="out.jsonl")
    monkeypatch.chdir("elsewhere")
    assert report.output == Path("out.jsonl")
    for each in (report, pickle.loads(pickle.dumps(report))):
        assert [result.content for result in each.results()] == ["hello"]


async def test_threads_may_read_the_results_at_once(client: FoundryAPIClient) -> None:
    report = await client.complete_batch(["same"] * 50)  # lines of one length, so that none looks cut
    names = [result.custom_id for result in report.results()]

    def read(_: int) -> bool:
        return all([each.custom_id for each in report.results()] == names for _ in range(50))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(read, range(4)))


@pytest.mark.parametrize("odd", ["1e400", "1" * 5000, '"\xff"'])
async def test_a_body_of_several_lines_is_one_in_the_output(
    client: FoundryAPIClient, stub: StubService, tmp_path: Path, odd: str
) -> None:
    """Whatever stands in a field that nobody reads."""
    body = json.dumps(chat_body("fine"), indent=1)[:-1].replace("\n", "\r\n") + f', "odd": {odd}\r}}'
    stub.on("POST", CHAT, reply(200, body.encode("latin-1")))
    report = await client.complete_batch(["a", "b"], output=tmp_path / "out.jsonl")
    assert [result.content for result in report.results()] == ["fine", "fine"]
    with report.output.open(encoding="utf-8") as lines:  # type: ignore[union-attr]
        assert len(list(lines)) == 2  # by whatever end of a line
