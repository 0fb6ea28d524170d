"""Personal data is masked by the same placeholder for all, counted, and nothing that only looks like it is touched."""

import random

import pytest
from planted import email, id_number, landline, mobile

from danlu.data.rules.privacy import MaskPersonal, valid_bank_card, valid_id_number
from danlu.types import Document

ALL = MaskPersonal(("email", "id_number", "bank_card", "phone", "ip_address"))


def masked(text: str, rule=ALL) -> tuple[str, dict[str, int]]:
    answer = rule(Document(text, "source", "1", {"url": "x"}))
    assert answer.meta["url"] == "x"
    return answer.text, answer.meta.get("masked", {})


@pytest.mark.parametrize(
    ("text", "expected", "kind"),
    [
        ("身份证号11010519491231002X。", "身份证号〈身份证号〉。", "id_number"),
        ("号码110105 19491231 002x，", "号码〈身份证号〉，", "id_number"),
        ("手机13812345678，", "手机〈电话〉，", "phone"),
        ("打138-1234-5678吧", "打〈电话〉吧", "phone"),
        ("打138 1234 5678吧", "打〈电话〉吧", "phone"),
        ("打+86 13812345678吧", "打〈电话〉吧", "phone"),
        ("电话：010-62345678转", "电话：〈电话〉转", "phone"),
        ("电话（0371）6234567", "电话〈电话〉", "phone"),
        ("(021)62345678-123", "〈电话〉", "phone"),
        ("请拨400-800-1234", "请拨〈电话〉", "phone"),
        ("电话0571—88156789，", "电话〈电话〉，", "phone"),
        ("(0571)－8815 6789", "〈电话〉", "phone"),
        ("热线4008-001-234", "热线〈电话〉", "phone"),
        ("电话:85671234", "电话:〈电话〉", "phone"),
        ("TEL：8567-1234。", "TEL：〈电话〉。", "phone"),
        ("写信到wang＠example．cn", "写信到〈邮箱〉", "email"),
        ("信箱a.b+c@mail.example.com.cn，", "信箱〈邮箱〉，", "email"),
        ("卡号6222 0202 0000 0000 006。", "卡号〈银行卡号〉。", "bank_card"),
        ("服务器8.8.4.4，", "服务器〈网络地址〉，", "ip_address"),
    ],
)
def test_it_is_masked_and_counted(text, expected, kind):
    assert masked(text) == (expected, {kind: 1})


@pytest.mark.parametrize(
    "text",
    [
        "110105194912310021",  # a check digit that is wrong
        "110105194913310023",  # a month that is not
        "产值13800000000元",
        "13812345678.5",
        "编号2138123456789",
        "1998年1月31日12时30分",
        "圆周率3.14159265358979",
        "π=3.13812345678",
        "人口1370536875",
        "卡号6222020200000000001",  # Luhn
        "版本1.2.3.4.5",
        "本机127.0.0.1和192.168.1.1",
        "999.1.1.1",
        "a @ b.com",
        "@所有人",
        "ISBN 978-7-111-05425-2",
        "ISBN 9787040123456",
        "共1234567890123次",
        "点击8613812345678次",
        "共13812345678人次",
        "14159265358979323846",
        "小数点后是14159265358",
        "1415 9265 3589 7932 3846",
        "1381 5678 9012",
        "138 1234 5678 9012 3456",
        "房间85671234",
        "990105194912310023",  # a province that is not
    ],
)
def test_what_only_looks_like_it_stays(text):
    assert masked(text) == (text, {})


def test_options_are_options():
    text = "8.8.4.4 6222 0202 0000 0000 006"
    assert masked(text, MaskPersonal()) == (text, {})


def test_check_digits_against_the_standards_examples():
    assert valid_id_number("11010519491231002X")  # the example of GB 11643-1999
    assert valid_id_number("440524188001010014")  # the other one
    assert not valid_id_number("440524188001010015")
    assert valid_bank_card("79927398713")  # the usual example of Luhn's formula
    assert not valid_bank_card("79927398710")


def test_a_thousand_of_each_amid_chinese():
    rng = random.Random(5)
    for _ in range(1_000):
        found = [id_number(rng), mobile(rng), landline(rng), email(rng)]
        text, counts = masked("，".join(f"这是{secret}" for secret in found))
        assert text == "这是〈身份证号〉，这是〈电话〉，这是〈电话〉，这是〈邮箱〉", found
        assert counts == {"id_number": 1, "phone": 2, "email": 1}


def test_han_characters_are_never_touched():
    rng = random.Random(6)
    for _ in range(2_000):
        text = "".join(rng.choices("中文，1234567890-.@ a()（）", k=40))
        after, _ = masked(text)
        for placeholder in ("〈身份证号〉", "〈银行卡号〉", "〈电话〉", "〈邮箱〉", "〈网络地址〉"):
            after = after.replace(placeholder, "")
        assert [c for c in after if c in "中文，"] == [c for c in text if c in "中文，"]
