"""Bad documents to plant among good ones: every kind by seed, from one of two pools of sentences.

Thresholds and phrases were chosen looking at pool "look". Of pool "held_out", advertisements and footers were written
when the list of phrases was finished, and are of trades that the list does not know; one thing was changed after a look
at the others: contacts were taken for advertisements, and dropped where they are to be masked.
Everything here was made up for these tests, people and addresses included.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from danlu.types import Document, Drop

Pool = Literal["look", "held_out"]

CITIES = ["北京", "上海", "广州", "深圳", "成都", "武汉", "西安", "杭州", "南京", "郑州", "长沙", "沈阳"]
GOODS = ["装修公司", "搬家公司", "二手房", "英语培训", "网站优化", "减肥药", "货架", "发电机出租", "开锁", "月嫂"]
SURNAMES, GIVEN = "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗", "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英"

ADS: dict[Pool, list[str]] = {
    "look": [
        "扫码关注微信公众号，回复“福利”免费领取{n}G学习资料",
        "加微信{w}，备注“进群”，拉你进{c}本地优惠群",
        "限时秒杀！原价{n}元，现在只要{m}元，点击下方链接立即购买",
        "{c}{g}，24小时上门服务，咨询热线：{t}",
        "点击阅读原文，查看更多{g}优惠信息",
        "更多精彩内容请下载客户端，新用户注册即送{n}元红包",
        "正品保证，假一赔十，全国包邮，货到付款",
        "专业{g}，价格优惠，欢迎来电咨询，联系人：{p}",
        "长按识别二维码，关注我们，每天领现金红包",
        "{c}最好的{g}在哪里？找我们，免费上门量房，微信同号{t}",
        "淘宝搜索店铺“{c}{g}旗舰店”，领取{m}元优惠券",
        "日赚{n}元，在家就能做的兼职，加QQ{q}了解详情",
        "想了解更多{g}资讯，请扫描下方二维码添加客服",
        "今日特价{m}元，手慢无！点此抢购",
        "{c}{g}哪家好？拨打电话{t}，免费咨询，免费报价",
        "加V信：{w}，免费领取内部资料，名额有限，先到先得",
        "关注本公众号，后台回复“{c}”即可领取优惠券",
        "厂家直销{g}，量大从优，诚招{c}代理加盟",
        "亲，收藏本店并分享朋友圈，下单立减{m}元哦",
        "本店所有商品支持七天无理由退货，付款后48小时内发货",
        "现在注册会员，充值满{n}元送{m}元，详情请咨询在线客服",
        "{g}招商加盟火热进行中，全国统一服务热线{t}",
        "添加老师微信{w}免费试听，{c}校区同步开班",
        "无抵押贷款，当天放款，额度最高{n}万，联系QQ：{q}",
        "春季班火热报名中，前20名学员享受8折优惠，校区地址：{c}市中心广场三楼",
        "本楼盘首付仅需{n}万起，地铁口现房，看房专车免费接送，售楼处电话：{t}",
        "老中医祖传秘方，三个疗程治愈失眠，无效全额退款，订购请短信联系{t}",
        "诚聘打字员，无需经验，日结工资{n}元，有意者私聊",
        "新服开启！上线就送VIP和{n}元宝，一起来战个痛快",
        "主播今晚八点准时开播，点点关注不迷路，进直播间抽大奖",
        "车险到期了吗？现在投保送{m}元加油卡，回复1了解",
        "这款面膜卖疯了！闺蜜都在用，戳链接抢同款，拍下备注送小样",
        "股票推荐，专家带你抓涨停，{n}位股民已经受益，入群领牛股",
        "高价回收手机、电脑、名表、黄金，当面现金交易，可到家收货：{t}",
        "{c}周边两日游只要{n}元，含住宿早餐，成团即走，预订从速",
        "正规网贷平台，凭身份证即可申请，最快5分钟到账，利息低至{m}厘",
        "开业大酬宾，全场{m}元起，充{n}送{n}，转发朋友圈集赞换礼品",
        "孩子成绩上不去？名师一对一辅导，提分有保障，预约免费体验课",
    ],
    "held_out": [
        "驾照考了三次还没过？来我们驾校，一费制，随到随学，最快四十天拿证",
        "宠物店转让，{c}大学旁，客源稳定，接手就能赚钱，非诚勿扰",
        "美容院周年庆，办卡送项目，原价{n}现价{m}，仅限三天",
        "大流量卡免费送，每月{m}块包{n}G，不用不扣钱，动动手指就到家",
        "二手车现车出售，手续齐全，可分期，一手车主，电话{t}",
        "单身的朋友看过来，{c}真实相亲平台，会员突破{n}万，今天就来认识他",
        "正宗土蜂蜜，农家自产，{m}元一斤，两斤起卖，顺丰直达，想要的留言",
        "破解版软件永久使用，一次付款终身更新，需要的老板私我",
        "十年老店，承接各类灯箱、招牌、名片制作，样式齐全，送货快，{p}经理{t}",
        "签证拒签怎么办？资深顾问帮您，成功率百分之{m}，不成功不收钱",
        "健身年卡只要{n}元，游泳瑜伽全包，首月不满意包退",
        "澳洲代购，奶粉保健品当天发，支持验货，价格好商量",
    ],
}
FOOTERS: dict[Pool, list[str]] = {
    "look": [
        "版权所有 未经授权不得转载",
        "Copyright © 2015-2023 All Rights Reserved",
        "{c}ICP备{q}号-1",
        "免责声明：本文仅代表作者个人观点，与本网无关。",
        "上一篇：{g}的选择 下一篇：{c}{g}指南",
        "【责任编辑：{p}】",
        "分享到：微信 新浪微博 QQ空间",
        "关于我们 | 联系我们 | 网站地图 | 友情链接",
        "本站内容均来自互联网，如有侵权请联系我们删除",
        "Copyright 2009-2021 {c}科技有限公司 版权所有",
        "京公网安备 {n}{q}号",
        "声明：转载此文是出于传递更多信息之目的，若有来源标注错误请与本网联系。",
        "您当前的位置：首页 > 新闻 > {c}",
        "（编辑：{p}）",
        "相关阅读：{c}{g}大全",
        "如需转载请注明出处",
        "本文由{p}原创发布，未经允许请勿搬运",
        "温馨提示：投资有风险，入市需谨慎，本内容不构成投资建议",
        "标签：{c} {g} 生活",
        "赞({m}) 收藏 评论({m}) 举报",
        "下载App看更多热门视频",
        "阅读 {n} 次 收藏 打印 字号：大 中 小",
        "举报电话：{t} 工信部备案号 {c}B2-{q}",
        "发表于 2019-03-12 10:22 | 只看该作者 | 倒序浏览",
        "本页面由网友上传，如涉及版权问题请与管理员联系处理",
        "网站首页 | 公司介绍 | 法律声明 | 诚聘英才",
    ],
    "held_out": [
        "您还没有登录，请先登录再发帖",
        "© {n} {c}在线 | 沪公网备 {q}",
        "原标题：{c}{g}调查 编辑：{p} 审核：{p}",
        "[打印] [关闭] [收藏] [推荐给朋友]",
        "共 {m} 页 第 1 页 下一页 尾页",
        "欢迎订阅本刊，邮发代号 {m}-{n}",
        "本文地址：https://www.example.com/{n}.html",
        "点个在看你最好看",
    ],
}
MENUS: dict[Pool, list[str]] = {
    "look": [
        "首页",
        "新闻",
        "体育",
        "财经",
        "娱乐",
        "科技",
        "汽车",
        "房产",
        "教育",
        "健康",
        "军事",
        "历史",
        "女性",
        "时尚",
        "旅游",
        "游戏",
        "视频",
        "图片",
        "博客",
        "论坛",
        "登录",
        "注册",
        "关于我们",
        "联系方式",
        "网站地图",
        "会员中心",
        "购物车",
        "我的订单",
        "帮助中心",
        "意见反馈",
    ],
    "held_out": [
        "主页",
        "资讯",
        "产品中心",
        "解决方案",
        "成功案例",
        "服务支持",
        "招贤纳士",
        "公司简介",
        "企业文化",
        "资质荣誉",
        "在线留言",
        "下载专区",
        "常见问题",
        "合作伙伴",
        "投资者关系",
        "用户中心",
        "忘记密码",
        "退出",
        "收藏",
        "搜索",
        "热门标签",
        "最新发布",
        "排行榜",
        "美食",
        "母婴",
        "家居",
        "数码",
        "手机",
        "电脑",
        "图书",
    ],
}
ENGLISH: dict[Pool, str] = {
    "look": (
        "the quick survey of small language models shows that careful data work matters more than another layer and "
        "nobody who has cleaned a corpus by hand would ever doubt this simple observation about training"
    ),
    "held_out": (
        "our shop opens at nine and closes when the last guest leaves so please call before you visit because parking "
        "is limited on market days and children under twelve travel free with an adult on every bus"
    ),
}
KEYWORDS: dict[Pool, tuple[list[str], list[str]]] = {
    "look": (GOODS, ["", "价格", "多少钱", "哪家好", "电话", "排名"]),
    "held_out": (
        [
            "空调维修",
            "考研辅导",
            "婚纱摄影",
            "隆鼻整形",
            "租车",
            "钢材",
            "月子中心",
            "汽车贴膜",
            "老房翻新",
            "宠物医院",
        ],
        ["", "费用", "地址", "推荐", "品牌", "厂家", "图片大全"],
    ),
}
SYMBOLS: dict[Pool, str] = {"look": "★☆■□◆◇●○▲△→←↑↓※§№＊＃＠", "held_out": "~^*#=+_|<>{}[]/\\$%&@♥♪♫✿✪❤✔"}


@dataclass(frozen=True)
class Planted:
    """A bad document, what of it must be gone if it is kept, and what the repair must give (None: it must go)."""

    document: Document
    gone: tuple[str, ...] = ()
    repaired: str | None = None

    def caught(self, answer: Document | Drop, repaired: str | None = None) -> bool:
        """Tell whether a recipe did its work; `repaired` is what it makes of the text before it was garbled."""
        if isinstance(answer, Drop):
            return True
        if repaired is not None:
            return answer.text == repaired
        return bool(self.gone) and not any(part in answer.text for part in self.gone)


Maker = Callable[[random.Random, Pool, Sequence[str]], Planted]


def digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(count))


def mobile(rng: random.Random) -> str:
    number = rng.choice(["13", "15", "16", "17", "18", "19"]) + rng.choice("01235689") + digits(rng, 8)
    return rng.choice([number, f"{number[:3]}-{number[3:7]}-{number[7:]}", f"{number[:3]} {number[3:7]} {number[7:]}"])


def landline(rng: random.Random) -> str:
    area, number = rng.choice(["010", "021", "0755", "0371"]), rng.choice("2345678") + digits(rng, 7)
    return rng.choice([f"{area}-{number}", f"({area}){number}", f"（{area}）{number}"])


def id_number(rng: random.Random) -> str:
    """Return a number with a valid check digit, by the standard's formula (GB 11643-1999, ISO 7064 MOD 11-2)."""
    born = f"{rng.randint(1940, 2015)}{rng.randint(1, 12):02}{rng.randint(1, 28):02}"
    body = rng.choice(["110101", "310115", "440305", "510104"]) + born + digits(rng, 3)
    total = sum(int(digit) * (2 ** (17 - place) % 11) for place, digit in enumerate(body))
    return body + "10X98765432"[total % 11]


def email(rng: random.Random) -> str:
    name = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz._0123456789") for _ in range(rng.randint(3, 12))).strip("._")
    return f"{name or 'x'}@{rng.choice(['qq.com', '163.com', 'mail.example.cn', 'example.com.cn'])}"


def person(rng: random.Random) -> str:
    return rng.choice(SURNAMES) + "".join(rng.sample(GIVEN, rng.randint(1, 2)))


def address(rng: random.Random) -> str:
    host = "".join(rng.choice("abcdefghijklmnop") for _ in range(rng.randint(3, 10)))
    start = rng.choice(["http://www.", "https://", "www.", "http://"])
    return (
        f"{start}{host}.{rng.choice(['com', 'cn', 'net', 'com.cn'])}/{rng.choice(['', 'a/', 'news/'])}{digits(rng, 5)}"
    )


def filled(template: str, rng: random.Random) -> str:
    return template.format(
        c=rng.choice(CITIES),
        g=rng.choice(GOODS),
        n=rng.randint(100, 999),
        m=rng.randint(9, 99),
        q=digits(rng, 9),
        t=mobile(rng),
        w=f"wx{digits(rng, 6)}",
        p=person(rng),
    )


def _document(text: str, kind: str) -> Document:
    return Document(text, f"planted/{kind}", kind)


def gbk_as_latin1(rng: random.Random, _: Pool, good: Sequence[str]) -> Planted:
    text = rng.choice(good)
    garbled = text.encode("gb18030").decode(rng.choice(["latin-1", "cp1252"]), "replace")
    exact = "\ufffd" not in garbled
    return Planted(_document(garbled, "gbk_as_latin1"), repaired=text if exact else None)


def utf8_as_latin1(rng: random.Random, _: Pool, good: Sequence[str]) -> Planted:
    text = rng.choice(good)
    return Planted(_document(text.encode().decode("latin-1"), "utf8_as_latin1"), repaired=text)


def utf8_as_gbk(rng: random.Random, _: Pool, good: Sequence[str]) -> Planted:
    text = rng.choice(good)
    garbled = text.encode().decode("gbk", "replace")
    return Planted(_document(garbled, "utf8_as_gbk"), repaired=text if "\ufffd" not in garbled else None)


def gbk_as_utf8(rng: random.Random, _: Pool, good: Sequence[str]) -> Planted:
    return Planted(_document(rng.choice(good).encode("gb18030").decode("utf-8", "replace"), "gbk_as_utf8"))


def ads(rng: random.Random, pool: Pool, _: Sequence[str]) -> Planted:
    lines = [filled(line, rng) for line in rng.sample(ADS[pool], rng.randint(2, 6))]
    return Planted(_document(rng.choice(["\n", "。", "！"]).join(lines), "ads"))


def footers(rng: random.Random, pool: Pool, good: Sequence[str]) -> Planted:
    lines = tuple(filled(line, rng) for line in rng.sample(FOOTERS[pool], rng.randint(2, 4)))
    return Planted(_document("\n".join([rng.choice(good), *lines]), "footers"), gone=lines)


def links(rng: random.Random, _: Pool, good: Sequence[str]) -> Planted:
    style = rng.choice(["{t} {a}", "{a}", "{a} {t}", "[{t}]({a})"])
    titles = [rng.choice(good)[: rng.randint(4, 16)].split("\n")[0] for _ in range(rng.randint(5, 30))]
    lines = [style.format(t=title, a=address(rng)) for title in titles]
    return Planted(_document("\n".join(lines), "links"))


def repeated_lines(rng: random.Random, _: Pool, good: Sequence[str]) -> Planted:
    sentences = [part + "。" for part in "".join(rng.sample(good, 2)).split("。") if len(part) > 5]
    different = sentences[: rng.randint(1, 4)] or ["一句话说了又说。"]
    lines = [rng.choice(different) for _ in range(rng.randint(8, 40))]
    return Planted(_document(rng.choice(["\n", "\n\n", ""]).join(lines), "repeated_lines"))


def english(rng: random.Random, pool: Pool, _: Sequence[str]) -> Planted:
    words = ENGLISH[pool].split()
    sentences = [
        " ".join(rng.choices(words, k=rng.randint(5, 15))).capitalize() + "." for _ in range(rng.randint(3, 20))
    ]
    return Planted(_document(" ".join(sentences), "english"))


def personal(rng: random.Random, pool: Pool, _: Sequence[str]) -> Planted:
    rows, secrets = [], []
    forms = {
        "look": "{p}，身份证号{i}，手机{t}，家里电话{l}，邮箱{e}，住在{c}。",
        "held_out": "联系人{p}（{i}）来自{c}，请打{t}或者{l}找他，也可以写信到 {e} 。",
    }
    for _ in range(rng.randint(2, 8)):
        found = {"i": id_number(rng), "t": mobile(rng), "l": landline(rng), "e": email(rng)}
        rows.append(forms[pool].format(p=person(rng), c=rng.choice(CITIES), **found))
        secrets += found.values()
    return Planted(_document("\n".join(rows), "personal"), gone=tuple(secrets))


def menus(rng: random.Random, pool: Pool, _: Sequence[str]) -> Planted:
    entries = rng.choices(MENUS[pool], k=rng.randint(15, 60))
    return Planted(_document(rng.choice(["\n", " | ", " ", "｜", "\n\n", " > ", "\t"]).join(entries), "menus"))


def keywords(rng: random.Random, pool: Pool, _: Sequence[str]) -> Planted:
    goods, tails = KEYWORDS[pool]
    city, chosen = rng.choice(CITIES), rng.sample(goods, 3)
    parts = [city * rng.randint(0, 1) + rng.choice(chosen) + rng.choice(tails) for _ in range(rng.randint(15, 60))]
    return Planted(_document(rng.choice([",", " ", "，", "、", "_"]).join(parts), "keywords"))


def symbols(rng: random.Random, pool: Pool, good: Sequence[str]) -> Planted:
    text = rng.choice(good)[: rng.randint(30, 200)]
    noisy = "".join(c + (rng.choice(SYMBOLS[pool]) * rng.randint(1, 3) if rng.random() < 0.3 else "") for c in text)
    return Planted(_document(noisy, "symbols"))


KINDS: dict[str, Maker] = {
    make.__name__: make
    for make in (
        gbk_as_latin1,
        utf8_as_latin1,
        utf8_as_gbk,
        gbk_as_utf8,
        ads,
        footers,
        links,
        repeated_lines,
        english,
        personal,
        menus,
        keywords,
        symbols,
    )
}


def planted(kind: str, seed: int, count: int, pool: Pool, good: Sequence[str]) -> list[Planted]:
    """Return `count` bad documents of a kind; `good` are texts to garble or to hide among."""
    rng = random.Random(f"{kind} {seed} {pool}")
    return [KINDS[kind](rng, pool, good) for _ in range(count)]
