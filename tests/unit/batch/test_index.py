"""What is where: names and who had them first."""

from hypothesis import given
from hypothesis import strategies as st

from foundry_lab.batch.index import Index

NAMES = st.lists(st.sampled_from("abcde"), max_size=8)


@given(st.lists(NAMES, min_size=1, max_size=3))
def test_an_item_is_the_first_of_its_name_however_often_and_changed_the_input_is_gone_through(
    passes: list[list[str]],
) -> None:
    index, first = Index(), dict[str, int]()
    for names in passes:
        for number, name in enumerate(names, 1):
            assert index.add_item(name, number) == first.setdefault(name, number)


def test_the_index_finds_lines_in_either_order() -> None:
    index = Index()
    for number, name in enumerate("abc", 1):
        assert index.add_item(name, number) == number
    assert index.add_item("b", 9) == 2
    index.put_line("c", "1", False, 0, 10)
    index.put_line("b", "2", True, 10, 5)
    index.put_line("stranger", "3", False, 15, 5)
    index.put_line("a", "4", False, 20, 5)
    index.put_line("c", "5", False, 25, 7)
    assert list(index.places(by_input=True)) == [(20, 5), (10, 5), (25, 7), (15, 5)]
    assert list(index.places(by_input=False)) == [(10, 5), (15, 5), (20, 5), (25, 7)]
    assert (index.count_lines(), index.line_of("c"), index.line_of("z")) == (4, ("5", False), None)
