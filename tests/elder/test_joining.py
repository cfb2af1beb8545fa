"""Where a space belongs between a prompt and its answer, and where nobody wrote one."""

from __future__ import annotations

import pytest

from elder.joining import join, opens, seam, spaceless

SPACED = (
    ("The capital of France is", "Lyon"),
    ("Q: Who runs Brend? A:", "Ula"),
    ("He said yes (and no)", "twice"),
    ('He said "yes"', "twice"),
    ("the dogs'", "bowl"),
    ("The price is 40€", "today"),
    ("Written in C#", "by Ula"),
    ("서울은", "도시"),  # Korean has spaces
    ("The capital of China is", "北京"),
    ("Name -", "Ula"),
    ("Er sagte „ja“", "und ging"),
    ("Which sign ends a question? It is", "?"),
    ("他的英文名叫John", "Smith"),
)
TOGETHER = (
    ("法国的首都是", "里昂"),
    ("法国的首都是", "Paris"),
    ("法国的首都是哪里？", "里昂"),
    ("答案:", "里昂"),
    ("苹果公司的CEO", "库克"),
    ("日本の首都は", "東京"),
    ("ラーメン", "屋"),
    ("เมืองหลวงของไทยคือ", "กรุงเทพ"),
    ("ນະຄອນຫຼວງຂອງລາວແມ່ນ", "ວຽງຈັນ"),
    ("រាជធានីនៃកម្ពុជាគឺ", "ភ្នំពេញ"),
    ("မြန်မာနိုင်ငံ၏မြို့တော်မှာ", "နေပြည်တော်"),
    ("The fee in Arlo is $", "40"),
    ("The fee is US$", "40"),
    ("The fee is €", "40"),
    ('The motto of Brend is "', "Rise"),
    ("The motto is “", "Rise"),
    ("The motto is «", "Rise"),
    ("Das Motto ist »", "Auf"),
    ("Das Motto ist „", "Auf"),
    ("座右铭是「", "前进"),
    ('座右铭是"', "前进"),
    ("Arlo (on the", ""),
    ("The river (", "Tam"),
    ('print("', "a"),
    ("¿", "Dónde"),
    ("La capitale de l'", "Italie"),
    ("La capitale dell’", "Italia"),
    ("The site is https://", "example.org"),
    ("The capital is ", "Lyon"),
    ("<|assistant|>\n", "Lyon"),
    ("The capital is", " Lyon"),
    ("def add(a, b):", "\n    return a + b"),
    ("", "Lyon"),
)


@pytest.mark.parametrize(("prompt", "answer"), SPACED)
def test_words_are_parted_by_one_space(prompt: str, answer: str) -> None:
    assert join(prompt, answer) == f"{prompt} {answer}"


@pytest.mark.parametrize(("prompt", "answer"), TOGETHER)
def test_what_the_user_wrote_or_the_script_joins_gets_no_space(prompt: str, answer: str) -> None:
    assert seam(prompt, answer) == ""
    assert join(prompt, answer) == prompt + answer


def test_a_quote_closes_when_another_one_has_opened() -> None:
    assert opens('他说"')
    assert not opens('他说"好"')


@pytest.mark.parametrize(("letter", "found"), [("里", True), ("か", True), ("ก", True), ("a", False), ("서", False)])
def test_scripts_are_known_by_the_names_of_their_letters(letter: str, found: bool) -> None:
    assert spaceless(letter) is found
