"""Checks of the exercises in notebook 2: bytes of a stream, percentiles, hanging up, limits on time."""

import re
from typing import Any

from foundry_lab.exercises.behind import CALL_S, TEXT, behind, with_client
from foundry_lab.exercises.double import DONE, STOP, Answer, Double, delta, event
from foundry_lab.exercises.registry import exercise
from foundry_lab.exercises.trying import Partly, Wrong, attempt, described, number_of, returned, shown
from foundry_lab.faults import Fault

_ROLE = delta(role="assistant")
_USAGE = event({"choices": [], "usage": {"total_tokens": 8}})


@exercise("2.1", "A stream by hand", points=3)
def stream_text(stream_text: Any) -> None:
    """The text is found however the bytes are cut, and a stream that isn't whole is an error."""

    def fed(pieces: list[bytes], wanted: str, what: str) -> None:
        value = attempt(stream_text, iter(pieces), call=f"fed {what}, it").result()
        if value != wanted:
            raise Wrong(f"fed {what}, it {returned(value)}; the text is {wanted!r}.")

    def refused(stream: bytes, what: str, no: tuple[type[Exception], ...] = ()) -> None:
        call = f"fed {what}, it"
        outcome = attempt(stream_text, iter([stream]), call=call)
        if outcome.error is None:
            raise Wrong(f"{call} {returned(outcome.value)}, as if all were well. Raise an error.")
        if isinstance(outcome.error, no):
            raise Wrong(
                f"{call} raised {described(outcome.error)}. "
                "Raise an error that passes on what the service said."
            )

    whole = _ROLE + delta(content="Red") + delta(content=" and blue") + STOP + _USAGE + DONE
    fed([whole], "Red and blue", "one piece with a usual stream")
    fed([whole[n : n + 7] for n in range(0, len(whole), 7)], "Red and blue", "the same in pieces of 7 bytes")
    cafe = delta(content="café") + STOP + DONE
    middle = cafe.index("é".encode()) + 1
    fed([cafe[:middle], cafe[middle:]], "café", 'b"…\\xc3" and b"\\xa9…" apart, the two bytes of é')
    done_inside = delta(content="data: [DONE] is no JSON") + STOP + DONE
    fed([done_inside], "data: [DONE] is no JSON", "an event whose text holds `data: [DONE]`")
    fed([whole.replace(b"\n", b"\r\n")], "Red and blue", r"lines that end in b'\r\n'")
    refused(_ROLE + delta(content="Red"), "a stream that ends without [DONE]")
    refused(done_inside.removesuffix(DONE), "a stream without [DONE] at its end, but in its text")
    broken = event({"error": {"message": "max_tokens must be >= 1", "type": "invalid_request_error"}})
    refused(broken + DONE, 'the event {"error": …}', no=(LookupError, TypeError))
    fed([b": keep-alive\n\n" + whole], "Red and blue", "a comment, `: keep-alive`, before the first event")


@exercise("2.2", "A percentile", points=2)
def percentile(percentile: Any) -> None:
    """Between the neighbours that any of the usual definitions allows."""
    cases: list[tuple[list[float], int, float, float]] = [
        ([3.0], 50, 3, 3),  # values, percent, from, to
        ([3.0], 95, 3, 3),
        ([1, 1, 1, 1, 100], 50, 1, 1),
        ([5, 1, 4, 2, 3], 50, 3, 3),
        ([2, 2, 2, 2], 95, 2, 2),
        (list(range(100, 0, -1)), 95, 95, 96),
        (list(range(1, 101)), 50, 50, 51),
        ([4, 8], 100, 8, 8),
    ]
    for values, percent, low, high in cases:
        given = list(values)
        what = f"percentile({shown(values)}, {percent})"
        value = number_of(attempt(percentile, given, percent, call=what).result(), what)
        if given != values:
            raise Wrong(f"{what} changed the list that it was given. Who called it may still need it.")
        if not low <= value <= high:
            mean = sum(values) / len(values)
            told = (
                " That is the mean: one large value pulls it up." if value == mean and percent == 50 else ""
            )
            raise Wrong(f"{what} returned {value:g}, which isn't right.{told}")


@exercise("2.3", "The first sentence", points=3)
def first_sentence(first_sentence: Any) -> None:
    """The sentence is whole, and the service sees that nobody reads on."""
    cases = {
        "The sea is wide. It is blue.": "The sea is wide.",
        "Pi is 3.14, about. It goes on.": "Pi is 3.14, about.",
        "Is it so? Yes, it is.": "Is it so?",
        "Ask Dr. Who now! He knows.": "Ask Dr. Who now!",
    }
    for text, wanted in cases.items():
        pieces = re.findall(r" ?\w+|[.,!?]", text)
        with Double(Answer(pieces=[*pieces, *[" And on."] * 100])) as double:
            call = f"first_sentence, streamed {text!r},"
            value = with_client(first_sentence, double.url, "Tell me.", call=call)
        if value != wanted:
            raise Wrong(f"streamed {text!r}, you {returned(value)}; the first sentence is {wanted!r}.")
        if not double.asked:
            raise Wrong("nothing was asked. Use the client that your function is given.")
        if double.asked[0].sent >= 100:
            raise Wrong(
                f"after {wanted!r} the service wrote 100 more pieces, for nobody: it never saw you hang up. "
                "Stop reading as soon as the sentence is whole."
            )
    with Double(Answer(pieces=["No", " end"])) as double:
        value = with_client(first_sentence, double.url, "Tell me.", call="first_sentence")
    if value != "No end":
        raise Wrong(f"streamed 'No end', and nothing more, you {returned(value)}.")


LAWS = {
    "constant": "Then the last of four would wait no longer than one that is alone",
    "linear": "",
    "quadratic": "Then the last of four would wait 16 times as long as one that is alone",
    "exponential": "Then each one more would double the wait: 8 times as long for the last of four",
}
"""What a learner may answer, and what would be seen if it held; nothing for the one that does."""


@exercise("2.4", "First token, with others at once", points=2)
def first_tokens(first_tokens: Any, law: Any) -> None:
    """As many streams as asked for are under way together, each one's own wait is returned; and the law."""
    for together in (1, 3):
        call = f"first_tokens(client, {together})"
        for pause_s in (0.3, 0.9):  # where the machine is busy, a right answer may be late, too: look again
            with Double(Answer(pieces=["a"] * 5, first_s=0.2, pause_s=pause_s)) as double:
                values = with_client(first_tokens, double.url, together, call=call)
            if not isinstance(values, list | tuple):
                raise Wrong(f"{call} {returned(values)}; a list of seconds is wanted.")
            values = [number_of(each, call, "a list of seconds is wanted") for each in values]
            if len(values) != together or len(double.asked) != together:
                raise Wrong(f"{call} sent {len(double.asked)} requests and returned {len(values)} numbers.")
            if double.most_at_once != together:
                raise Wrong(f"in {call} at most {double.most_at_once} was under way: they ran one by one.")
            if len({str(asked.body) for asked in double.asked}) < together:
                raise Wrong(f"in {call} two streams asked the same. Give each another question.")
            if min(values) < 0.15:
                raise Wrong(f"{call} {returned(values)}, but no first token came so early.")
            if min(values) > CALL_S:
                raise Wrong(f"{call} {returned(values)}. Are these milliseconds? Seconds are wanted.")
            last_s = min(asked.last_s - asked.began_s for asked in double.asked)
            if min(values) <= last_s or any(asked.sent < 5 for asked in double.asked):
                break
        else:
            raise Wrong(f"{call} {returned(values)}: that is the time until the last token.")
    if law not in list(LAWS):
        raise Partly(f"Measure, then set law to one of: {', '.join(LAWS)}. It is {shown(law)}.", points=1)
    if LAWS[law]:
        raise Partly(f"The law is {law!r}? {LAWS[law]}. What did you measure?", points=1)


@exercise("2.5", "When nothing comes", points=2)
def patient(patient: Any) -> None:
    """The stalled stream is left in time, and the question is asked once more without streaming."""
    call = 'behind a stream that stalls, patient(client, "Say hello.", 1.0)'
    value, chats, bodies = behind(Fault("stall", after=0), patient, "Say hello.", 1.0, call=call)
    if not chats:
        raise Wrong("nothing was asked. Use the client that your function is given.")
    if len(chats) != 2 or "stall" not in chats[0]:
        raise Wrong(f"{len(chats)} requests were sent: the one that stalled, and then one more, are wanted.")
    if bodies[-1].get("stream"):
        raise Wrong(
            "the second request asked for a stream again, which may hang again: ask without streaming."
        )
    if bodies[-1]["messages"] != bodies[0]["messages"]:
        raise Wrong(f"the second request asked something else: {shown(bodies[-1]['messages'])}.")
    if not isinstance(value, str) or value.strip() != TEXT.strip():
        raise Wrong(f"the second request was answered {TEXT!r}, and you {returned(value)}; return the text.")
