"""A small corpus with something for every step of cleaning to find, as records of .jsonl."""

import json
import random
from pathlib import Path

_WHO = [
    "我的老师",
    "这位作家",
    "镇上的木匠",
    "隔壁的孩子",
    "值班的医生",
    "老船长",
    "新来的邮递员",
    "图书馆的管理员",
    "卖豆腐的大娘",
    "修表的师傅",
]
_WHEN = [
    "昨天早上",
    "去年冬天",
    "上个星期",
    "很多年以前",
    "天快黑的时候",
    "下课以后",
    "春节前后",
    "刚下过雨的傍晚",
    "一九八五年",
    "放假的第一天",
]
_DID = [
    "在河边讲了一个故事",
    "把旧书搬到了阁楼上",
    "给远方的朋友写了一封长信",
    "终于看懂了那张地图",
    "带着我们爬上了城墙",
    "为大家煮了一锅热汤",
    "修好了停了三年的钟",
    "从集市买回了两只小羊",
    "在院子里种下了一棵枣树",
    "把这件事记在了本子里",
]
_THEN = [
    "，大家都觉得很高兴。",
    "，这是谁也没有想到的。",
    "，后来就再也没有提起过。",
    "，因为那里的风景实在太美了。",
    "，村里的人到现在还记得。",
    "，可是并没有告诉家里人。",
    "，所以我们等了他整整一天。",
    "，这让所有人都松了一口气。",
]
FOOTER = "欢迎大家把这篇文章转给身边还没有读过的朋友们一起来读一读。"
EVALUATION = "请问这座横跨在青衣江上的石拱桥是由哪一位工匠在哪一年主持修建完成的，它一共有多少个桥孔？"


def good(rng: random.Random) -> str:
    """Return a document of some hundred characters that every recipe keeps."""
    lines = ["".join(rng.choice(part) for part in (_WHEN, _WHO, _DID, _THEN)) for _ in range(rng.randint(6, 14))]
    return "\n".join("".join(lines[i : i + 3]) for i in range(0, len(lines), 3))


def records(count: int = 200, seed: int = 0) -> list[dict]:
    """Return records: good ones, and copies, near copies, footers, fragments, English, private and evaluation text."""
    rng = random.Random(seed)
    made: list[dict] = []
    for number in range(count):
        kind = number % 10
        text = good(rng)
        if kind == 3 and made:
            text = rng.choice(made)["text"].replace("\n", "\n ")
        elif kind == 4:
            text = text.replace("。", "！", 1) if number < 10 else _nearly(made[number - 10]["text"])
        elif kind == 5:
            text += "\n" + FOOTER
        elif kind == 6:
            text = text[:8]
        elif kind == 7 and number % 20 == 7:
            text = "This is a page of plain English text about nothing in particular. " * 4
        elif kind == 8:
            text += f"\n有事请打电话{rng.choice(['13', '15', '18'])}{rng.randrange(10**9):09d}找他。"
        elif kind == 9 and number % 40 == 9:
            text = f"{text}\n{EVALUATION}"
        made.append({"id": f"n-{number}", "text": text, "tags": [kind], "url": f"https://example.org/{number}"})
    return made


def _nearly(text: str) -> str:
    return text[:-1] + "了。"


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
