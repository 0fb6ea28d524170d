"""Texts as they are found, made up for these tests: what each recipe must keep of them.

An `Example` says what must be left (`kept`), what must be gone (`gone`) or the reason for which all of it goes.
"""

import random
from dataclasses import dataclass

from danlu.data.rules.recipes import RecipeName


@dataclass(frozen=True)
class Example:
    """A text and what becomes of it: `dropped` names a reason, "" any, None that it stays."""

    name: str
    text: str
    recipe: RecipeName = "web"
    kept: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    whole: bool = False
    dropped: str | None = None


PROSE = (
    "清晨的集市已经热闹起来了。卖菜的老人把一捆捆青菜摆在竹篮里，旁边的小贩一边收钱一边和熟人打招呼。"
    "几个放学早的孩子围着糖画摊子，看师傅用勺子在石板上画出一条龙来。\n"
    "我在街角的面馆坐下，要了一碗牛肉面。老板说这家店开了三十年，附近的工人每天早上都来。"
    "汤很烫，面很筋道，吃完以后整个人都暖和了。\n"
    "回去的路上下起了小雨，石板路被洗得发亮。我没有打伞，就那样慢慢地走着，觉得这座小城比我想的要好。"
)
ARTICLE = (
    "老张在铁路上干了一辈子，退休以后反倒闲不下来。他把家里的旧收音机一台一台拆开，擦干净了，再装回去。"
    "邻居们听说他会修东西，就把坏了的闹钟、电扇都送到他那里，他从来不收钱。\n"
    "去年冬天，社区给他腾出一间小屋，挂了块牌子。从那以后，每逢星期三，屋里总是坐满了人。"
    "有来修东西的，也有只是来说话的。老张说，机器坏了能修，人闷在家里才真要出毛病。\n"
    "前些日子有记者来采访，问他图什么。他想了想，指着墙上一排走得很准的钟，说：“听它们一齐响，心里踏实。”"
)
_WORDS = (
    "他她我们你们那人老者少年将军姑娘掌柜师父马车灯笼刀剑院门夜色雨声山路桥头茶馆酒杯窗户树影月光脚步书信银子"
    "看见听说走过推开放下想起转身点头拿起问道笑着坐在站住离开回到等待不知明白记得忘记"
)


def _sentence(rng: random.Random) -> str:
    words = [_WORDS[i : i + 2] for i in range(0, len(_WORDS) - 1, 2)]
    return "".join(rng.choice([*words, "的", "了", "就", "，"]) for _ in range(rng.randint(15, 30))).strip("，") + "。"


LYRICS = """月光照着旧时的小镇
你在桥头等着谁的信
风吹过你的长发和衣襟
我却不敢再靠近
啊 故乡的河水慢慢地流
流过我们年少的时候
你说过会一直牵着我的手
走到世界的尽头
后来的我走过许多城市
再没有见过那样的你
每当夜里下起了小雨
我总会想起那句话语
啊 故乡的河水慢慢地流
流过我们年少的时候
你说过会一直牵着我的手
走到世界的尽头
啊 故乡的河水慢慢地流
流过我们年少的时候
你说过会一直牵着我的手
走到世界的尽头"""
ABSTRACT = """摘要：本文研究了黄土高原典型小流域的土壤侵蚀过程，利用十年的观测资料分析了降雨强度、坡度与植被覆盖\
对产沙量的影响。结果表明，植被覆盖率超过百分之六十时，产沙量显著下降，而坡度的影响随覆盖率的提高而减弱。研究结果可为水土保持措施的布局提供依据。
关键词：土壤侵蚀；黄土高原；植被覆盖
Abstract: This paper studies soil erosion in a typical small catchment of the Loess Plateau. Ten years of observations \
were used to analyse how rainfall intensity, slope and vegetation cover influence sediment yield. The results show \
that sediment yield falls markedly where vegetation covers more than sixty percent of the ground, and that \
the influence of slope weakens as the cover grows. The results may serve the planning of soil and water conservation.
Key words: soil erosion; Loess Plateau; vegetation cover"""
JAPANESE = """川端康成的《雪国》开头只有一句话，却被许多人反复引用：\
“国境の長いトンネルを抜けると雪国であった。夜の底が白くなった。”\
译者们为怎样译出那种忽然明亮的感觉费了许多心思，有人译得简洁，有人译得铺陈，但都舍不得丢掉那一片白。"""
LETTER = """亲爱的妈妈：
您好！我到学校已经一个月了，这里的一切都好，您不用惦记。宿舍里住着四个人，大家相处得很愉快，周末常常一起去爬山。\
食堂的饭菜虽然没有家里的香，但是也能吃饱。功课比以前难了许多，不过老师讲得很清楚，我每天晚上都去图书馆看书。\
前几天降温，我把您给我织的毛衣穿上了，同学们都说好看。等到放寒假，我就坐火车回去看您和爸爸，还要吃您包的饺子。\
请您多保重身体，别太劳累，家里有什么事情就给我写信。
祝您身体健康
女儿 小芳
2021年3月5日"""
HEADLINES = """我市召开春季农业生产工作会议
市领导到基层调研重点项目建设
全市中小学春季学期今日开学
城区三条道路改造工程启动
第五届民俗文化节下月举行
气象台发布大风蓝色预警
女篮联赛主场三连胜
新版社保卡开始换发
高铁新站预计年底建成
图书馆延长开放时间
志愿者走进社区义务植树
小区加装电梯补贴标准公布"""


def novel(footer: str, chapters: int = 12) -> str:
    """Return a novel of some chapters with a line at the end of each."""
    rng, parts = random.Random(1), list[str]()
    for chapter in range(1, chapters + 1):
        lines = [rng.choice(["“嗯。”", _sentence(rng), _sentence(rng)]) for _ in range(12)]
        parts += [f"第{chapter}章 夜雨", *lines, footer]
    return "\n".join(parts)


def play(lines: int = 60) -> str:
    """Return a play of two, whose names stand on lines of their own."""
    rng = random.Random(2)
    return "\n".join(f"{'父亲' if i % 2 else '女儿'}\n{_sentence(rng)}" for i in range(lines)).removesuffix("\n")


GOOD = [
    Example("a song with a refrain", LYRICS, kept=("走到世界的尽头", "再没有见过那样的你"), whole=True),
    Example("an abstract in two languages", ABSTRACT, kept=("摘要", "sediment yield"), whole=True),
    Example(
        "a review that ends with a hotline",
        "酒店离地铁站很近，房间干净，早餐的种类也多，前台的小姑娘很热情，下次来还住这里。客服热线：400-800-1234",
        kept=("房间干净", "下次来还住这里。"),
        gone=("400-800-1234",),
    ),
    Example(
        "a review of a hotline",
        "洗衣机用了半年就坏了，打了服务热线400-820-1234，师傅第二天就上门修好了，没有收钱，态度也不错。",
        kept=("师傅第二天就上门修好了", "服务热线〈电话〉"),
    ),
    Example("a quotation in Japanese", JAPANESE, kept=("国境の長いトンネル", "那一片白"), whole=True),
    Example(
        "a line that was lost",
        f"{ARTICLE}\n\ufffd\ufffd锟斤拷锟斤拷\ufffd\ufffd的锟斤拷\n{PROSE}",
        kept=("清晨的集市", "退休以后"),
        gone=("\ufffd", "锟斤拷"),
    ),
    Example(
        "a line of mojibake",
        ARTICLE
        + "\n"
        + "我们今天去".encode("gb18030").decode("latin-1")
        + "\x81\x8d"
        + "\nÃ\xa9Ã\xa4Ã\xb6Ã\xbc好\n"
        + PROSE,
        kept=("清晨的集市", "退休以后"),
        gone=("ÎÒ",),
    ),
    Example("a letter", LETTER, kept=("女儿 小芳", "2021年3月5日"), whole=True),
    Example("a letter, in one line", LETTER.replace("\n", ""), kept=("家里有什么事情就给我写信。",)),
    Example("a date in the last line", f"{ARTICLE}\n张三\n2021年3月5日", kept=("张三\n2021年3月5日",), whole=True),
    Example("a date behind the last sentence", f"{ARTICLE}2021年3月5日", kept=("2021年3月5日",), whole=True),
    Example("a name and a date behind it", f"{ARTICLE} 张三 2021-03-05", kept=("张三 2021-03-05",), whole=True),
    Example(
        "copyright as a subject",
        "法院认为，版权所有的人有权要求停止侵害。被告没有得到版权所有者的同意就出版了这本书，应当赔偿损失，并公开道歉。",
        whole=True,
    ),
    Example(
        "entering without permission",
        "根据刑法，未经授权侵入他人计算机系统的，处三年以下有期徒刑。这家公司的员工未经授权查看了客户的资料，被判罚款。",
        whole=True,
    ),
    Example(
        "bread past its date",
        "超市里的面包过期了两天还在卖，我拿去问，店员说是忘了收，给我退了钱，还道了歉。",
        whole=True,
    ),
    Example(
        "comparisons and code",
        "如果 a < b 并且 c > d，那么循环就会提前结束，这是很多人第一次写这段程序时没有想到的。\n"
        "```html\n<p>段落</p>\n```\n"
        "上面这段代码里的标签会原样显示。List<Object> 是一个对象的列表，而 `<b>` 只是一个标签的名字。",
        kept=("a < b 并且 c > d", "<p>段落</p>", "List<Object>", "`<b>`"),
        whole=True,
    ),
    Example(
        "news of likes",
        "这条视频发布以后获得了三万次点赞和五千次转发，许多网友在评论里说起了自己小时候的故事，有人还把它收藏了起来。",
        whole=True,
    ),
    Example(
        "the last chapter, named",
        "上一章我们讲了函数的定义，这一章来看它的图像，下一章再讨论导数和它的用处。",
        whole=True,
    ),
    Example(
        "a source that is a subject",
        "来源：本品为唇形科植物丹参的干燥根和根茎。春、秋二季采挖，除去泥沙，干燥，可以用来治疗很多种疾病。",
        whole=True,
    ),
    Example("a novel with short answers", novel("* * *"), recipe="books", whole=True),
    Example(
        "a recipe without full stops",
        "红烧肉的做法\n食材：五花肉一斤\n调料：生抽、老抽、冰糖\n1. 五花肉切块，冷水下锅焯水\n"
        "2. 锅里放油，下冰糖炒出糖色\n3. 倒入肉块翻炒，加生抽老抽\n4. 加热水没过肉，小火炖一个小时\n"
        "5. 大火收汁，出锅装盘",
        whole=True,
    ),
    Example(
        "subtitles",
        "你为什么不告诉我\n我以为你早就知道了\n那天晚上下着很大的雨\n我在车站等了你三个小时\n可是你一直没有来\n"
        "后来我就一个人走了\n走了很远很远的路\n现在说这些还有什么用呢",
        whole=True,
    ),
    Example(
        "words of Japanese",
        "日语里“ありがとうございます”是谢谢的意思，对长辈和客人说的时候要用敬语，朋友之间可以只说前半。",
        whole=True,
    ),
    Example("a play", play(), recipe="books", whole=True),
]
BAD = [
    Example(
        "links between chapters", novel("上一章 目录 下一章"), "books", kept=("第12章",), gone=("上一章 目录", "下一章")
    ),
    Example(
        "a site's name in a novel",
        novel("青竹书屋 最快更新"),
        "books",
        kept=("“嗯。”", "第12章", "“嗯。”"),
        gone=("青竹书屋",),
    ),
    Example("page numbers", novel("第3页 共20页 下一页 尾页"), "books", kept=("“嗯。”",), gone=("共20页",)),
    Example(
        "controls amid an article",
        f"{PROSE}\n上一页 1 2 3 下一页\n[打印] [关闭] [收藏]",
        kept=(PROSE,),
        gone=("打印", "上一页"),
    ),
    Example(
        "HTML",
        "".join(f'<p style="text-indent:2em">{line}</p>' for line in PROSE.split("\n")).replace("，", "，&nbsp;", 1)
        + "<br/>",
        kept=("清晨的集市", "觉得这座小城"),
        gone=("<", "&nbsp;", "text-indent"),
    ),
    Example(
        "HTML, escaped",
        f"&lt;p&gt;{PROSE}&lt;/p&gt;&lt;p&gt;A&amp;B&lt;/p&gt;",
        kept=(PROSE, "A&B"),
        gone=("&lt;", "<p>"),
    ),
    Example(
        "a script",
        f"<script>var a = 1; if (a < 2) {{ show('x'); }}</script><h1>集市</h1>{PROSE}<!-- 广告位 -->",
        kept=("集市\n", PROSE),
        gone=("var a", "广告位"),
    ),
    Example(
        "a page of markup",
        "<div class='nav'><ul>"
        + "".join(f"<li><a href='/c/{i}.html' title='x'>新闻{i}</a></li>" for i in range(20))
        + "</ul></div>",
        dropped="markup",
    ),
    Example(
        "a cookie banner",
        f"{PROSE}\n我们使用Cookie来改善您的浏览体验。继续浏览本网站即表示您同意我们的隐私政策。\n全部接受 拒绝",
        kept=(PROSE,),
        gone=("Cookie", "隐私政策", "全部接受"),
    ),
    Example("headlines", HEADLINES, dropped="headlines"),
    Example(
        "headlines with dates",
        "\n".join(f"2021-03-{i + 10} {line}" for i, line in enumerate(HEADLINES.split("\n"))),
        dropped="",
    ),
    Example(
        "source and editor",
        f"来源：新华社 作者：李明 2021-03-05 10:22\n{PROSE}\n责任编辑:王小明\n（来源：中国新闻网）",
        kept=(PROSE,),
        gone=("来源", "王小明"),
    ),
    Example(
        "likes",
        f"{PROSE}\n点赞 128 转发 36 收藏 52\n喜欢的话请点赞、收藏、转发哦\n分享\n评论(12)",
        kept=(PROSE,),
        gone=("点赞", "收藏", "评论", "分享"),
    ),
]
