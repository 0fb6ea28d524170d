"""The page of `danlu serve` in a real Chromium, before a real server with a tiny model of random weights.

A stub stands in where a test needs what the real one cannot do on demand: pauses, failures, chosen words.
"""

import json
import math
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import danlu
from danlu.data.chat import Conversations
from danlu.data.sources import Corpus
from danlu.evaluate.loss import score_texts

pytestmark = pytest.mark.browser

PAGE = Path(danlu.__file__).parent / "serve" / "page.html"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
MODEL = {"id": "tiny", "object": "model", "danlu": {"chat": True, "context": 128, "parameters": 5_049_088}}
HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>&lt;b&gt;"


def likely(text: str | bytes, p: float) -> dict:
    data = text.encode() if isinstance(text, str) else text
    return {"token": data.decode(errors="replace"), "bytes": list(data), "logprob": math.log(p)}


class Stub(ThreadingHTTPServer):
    """Answers requests in the order that a test scripts; every streamed piece waits for the test's leave."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/"
        self.script, self.asked = [], []
        self.leave = threading.Semaphore(10_000)
        self.left = threading.Event()
        self.models = [MODEL]

    def say(self, *pieces, **how):
        """Answer the next request with these pieces: a text, or (text, [tokens]) with what was likely."""
        self.script.append({"pieces": pieces, **how})

    def refuse(self, status, message="no", code=None, **headers):
        self.script.append({"status": status, "error": {"message": message, "code": code}, "headers": headers})


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def reply(self, status, body, kind="application/json", **headers):
        self.send_response(status)
        for name, value in {"Content-Type": kind, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/":
            self.reply(200, PAGE.read_bytes(), "text/html; charset=utf-8", Content_Security_Policy=POLICY)
        else:
            self.reply(200, json.dumps({"data": self.server.models}).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body))
        act = self.server.script.pop(0)
        if "status" in act:
            self.reply(act["status"], json.dumps({"error": act["error"]}).encode(), **act["headers"])
        elif "scored" in act:
            self.reply(200, json.dumps({"choices": [{"text": body["prompt"], "logprobs": act["scored"]}]}).encode())
        else:
            self.stream(act, "messages" in body)

    def stream(self, act, chat):
        self.reply(200, b"", "text/event-stream")
        try:
            for piece in act["pieces"]:
                self.server.leave.acquire(timeout=20)
                self.event({"choices": [self.choice(piece, chat)]})
            if act.get("broken"):
                return
            if act.get("fails"):
                self.event({"error": act["fails"]})
                return
            end = {"delta": {}} if chat else {"text": ""}
            self.event({"choices": [{**end, "finish_reason": act.get("finish", "stop")}]})
            self.event({"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": len(act["pieces"]) + 1}})
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.server.left.set()

    def choice(self, piece, chat):
        text, tokens = piece if isinstance(piece, tuple) else (piece, [likely(piece, 0.5)])
        if not chat:
            return {"text": text, "finish_reason": None}
        content = [{**token, "top_logprobs": token.get("top", [])} for token in tokens]
        return {"delta": {"content": text}, "logprobs": {"content": content}, "finish_reason": None}

    def event(self, data):
        self.wfile.write(f"data: {json.dumps(data)}\n\n".encode())
        self.wfile.flush()


@pytest.fixture
def stub():
    server = Stub()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    for _ in range(50):
        server.leave.release()
    server.shutdown()
    server.server_close()
    thread.join()


class Visits:
    """Opens the page in browsers of their own. `posts` are (path, body) of what it sent, `wrong` its complaints."""

    def __init__(self, chromium, url):
        self.chromium, self.url = chromium, url
        self.contexts, self.posts, self.wrong = [], [], []

    def __call__(self, url=None, wait=True, tokens=12, **how):
        context = self.chromium.new_context(**{"locale": "zh-CN", "viewport": {"width": 1100, "height": 800}, **how})
        context.set_default_timeout(10_000)
        self.contexts.append(context)
        page = context.new_page()
        page.add_init_script("let drawn = 0; Math.random = () => (drawn += 0.0137) % 1")  # the page's seeds
        page.on("request", self._note)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("console", lambda m: self.wrong.append(m.text) if "Security" in m.text or m.type == "warning" else None)
        page.goto(url or self.url)
        if wait:
            page.locator("#send:enabled").wait_for()
            page.evaluate(f"state.knobs.max_tokens = {tokens}; sampling(); save()")
        return page

    def _note(self, request):
        if request.method == "POST":
            self.posts.append((request.url.partition("/v1/")[2], request.post_data_json))

    def asked(self, number=-1):
        """The words of a conversation that was sent."""
        return [message["content"] for message in self.posts[number][1]["messages"]]


@pytest.fixture
def visit(chromium, server):
    visits = Visits(chromium, server.url)
    yield visits
    for context in visits.contexts:
        context.close()
    assert visits.wrong == []


def ask(page, question, wait=True):
    page.fill("#draft", question)
    page.press("#draft", "Enter")
    if wait:
        settled(page)


def settled(page):
    page.locator(".busy").wait_for(state="detached")


def raw_answers(page):
    """The answers as the page keeps them, before control characters are made visible."""
    return page.evaluate("turnsNow().map(turn => turn.answer)")


def answers(page):
    return page.locator(".text").all_inner_texts()


def act(page, name):
    page.locator(".acts").last.get_by_role("button", name=name, exact=True).click()


def fault_of(page):
    return page.locator(".fault span").last.inner_text()


def setting(page, name, value):
    page.evaluate("document.querySelector('details').open = true")
    page.fill(f"#{name}-number", str(value))
    page.locator(f"#{name}-number").blur()


def test_a_conversation_with_the_real_server(visit):
    page = visit()
    ask(page, "长江在哪里？")
    ask(page, "然后呢？")
    first, second = answers(page)
    assert first
    assert second
    assert [path for path, _ in visit.posts] == ["chat/completions"] * 2
    assert visit.asked() == ["长江在哪里？", raw_answers(page)[0], "然后呢？"]
    assert page.locator("#about").inner_text().endswith("上下文 128 词元")
    count = page.evaluate("turnsNow()[1].tokens.length")
    facts = rf"{count} 词元 · [\d.]+ 词元/秒 · 首词元 [\d.]+ 秒 · 上下文 \d+/128 · 种子 \d+"
    assert re.match(facts, page.locator(".facts").last.inner_text())
    act(page, "词元")
    assert page.locator(".token").count() > 3
    assert "".join(page.locator(".token").all_text_contents()).count("山") == second.count("山")


def test_regenerate_replaces_the_last_answer(visit):
    page = visit()
    ask(page, "第一问")
    ask(page, "第二问")
    before = raw_answers(page)
    act(page, "重新生成")
    settled(page)
    after = raw_answers(page)
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert visit.posts[2][1]["messages"] == visit.posts[1][1]["messages"]
    assert visit.posts[2][1]["seed"] != visit.posts[1][1]["seed"]


def test_stop_reaches_the_real_engine(visit, serving, long_model, taught):
    with serving(long_model, taught) as slow:
        page = visit(slow.url, tokens=3900)
        setting(page, "temperature", 0)  # it repeats itself, and does not end
        ask(page, "数数", wait=False)
        page.locator(".facts", has_text="词元/秒").wait_for()
        page.press("#draft", "Escape")
        settled(page)
        assert slow.idle()
        assert "已停止" in page.locator(".facts").inner_text()
        assert 0 < slow.app.metrics.completion_tokens < 3900


def test_a_seed_repeats_an_answer(visit):
    page = visit()
    page.fill("#seed", "42")
    ask(page, "第一问")
    before = raw_answers(page)
    act(page, "重新生成")
    settled(page)
    assert raw_answers(page) == before
    assert "种子 42" in page.locator(".facts").inner_text()


def test_the_last_question_can_be_edited(visit):
    page = visit()
    ask(page, "第一问")
    ask(page, "第二闻")
    act(page, "编辑")
    assert page.input_value("#draft") == "第二闻"
    page.press("#draft", "Escape")
    assert page.input_value("#draft") == ""
    act(page, "编辑")
    ask(page, "第二问")
    assert page.locator(".asked").all_inner_texts() == ["第一问", "第二问"]
    assert visit.asked() == ["第一问", raw_answers(page)[0], "第二问"]


def test_settings_reach_the_request_and_go_back_to_their_defaults(visit):
    page = visit()
    page.get_by_role("button", name="恢复默认").click()
    ask(page, "一")
    defaults = visit.posts[0][1]
    assert (defaults["temperature"], defaults["top_p"], defaults["max_tokens"]) == (0.8, 0.95, 128)
    act(page, "编辑")
    page.locator("#temperature-range").fill("1.2")
    chosen = {"top_p": 0.5, "max_tokens": 33, "top_k": 7, "min_p": 0.05, "repetition_penalty": 1.1}
    chosen |= {"no_repeat_ngram": 3, "presence_penalty": 0.5, "frequency_penalty": -0.5}
    for name, value in chosen.items():
        setting(page, name, value)
    page.fill("#seed", "42")
    page.fill("#stop", "。\n\\n问")
    page.fill("#system", "你是诗人")
    ask(page, "二")
    sent = visit.posts[1][1]
    assert {name: sent[name] for name in chosen} == chosen
    assert (sent["temperature"], sent["seed"], sent["stop"]) == (1.2, 42, ["。", "\n问"])
    assert sent["messages"][0] == {"role": "system", "content": "你是诗人"}
    assert (sent["logprobs"], sent["top_logprobs"], sent["stream_options"]) == (True, 5, {"include_usage": True})
    setting(page, "temperature", 99)
    assert page.input_value("#temperature-number") == "2"
    page.get_by_role("button", name="恢复默认").click()
    act(page, "编辑")
    ask(page, "三")
    assert {**visit.posts[2][1], "seed": 0, "messages": []} == {**defaults, "seed": 0, "messages": []}
    assert page.locator(".fault").count() == 0


@pytest.mark.parametrize("end", ["min", "max"])
def test_the_server_takes_every_setting_to_its_ends(visit, end):
    page = visit()
    page.evaluate("document.querySelector('details').open = true")
    for dial in page.locator("input[type=range]").all():
        dial.fill(dial.get_attribute(end))
    ask(page, "一")
    page.get_by_role("button", name="续写").click()
    ask(page, "珠穆朗玛峰是")
    assert page.locator(".fault").count() == 0
    assert len(visit.posts) == 2


def test_a_base_model_begins_in_completion_and_is_said_to_be_one(visit, serving, random_model, tokenizer):
    with serving(random_model, tokenizer) as base:
        page = visit(base.url)
        assert "基座模型" in page.locator("#about").inner_text()
        page.get_by_role("button", name="珠穆朗玛峰是").click()
        page.press("#draft", "Enter")
        settled(page)
        (first,) = raw_answers(page)
        act(page, "接着写")
        settled(page)
        (whole,) = raw_answers(page)
        assert whole.startswith(first)
        assert len(whole) > len(first)
        assert answers(page)[0].startswith("珠穆朗玛峰是")
        count = page.evaluate("turnsNow()[0].tokens.length")
        assert page.locator(".facts").inner_text().startswith(f"{count} 词元")
        assert [body["prompt"] for _, body in visit.posts] == ["珠穆朗玛峰是", f"珠穆朗玛峰是{first}"]
        page.get_by_role("button", name="对话").click()
        assert "没有学过回答" in page.locator(".empty").inner_text()
        ask(page, "你是谁？")
        assert page.locator(".fault").count() == 0


def test_a_scored_text_has_the_bits_per_character_of_danlu_eval(visit, random_model, taught):
    text = "中国经济持续发展。\n珠穆朗玛峰 is high，饕餮！"
    page = visit()
    page.get_by_role("button", name="词元").click()
    ask(page, text)
    score = score_texts(random_model, taught, [text], 128)
    assert f"每字 {score.bits_per_char:.2f} 比特" in page.locator(".scale").inner_text()
    assert page.locator(".facts").inner_text() == f"{score.tokens} 词元"
    seen = "".join(page.locator(".token").all_text_contents())
    assert seen == text.replace(" ", "␣").replace("\n", "↵\n")
    page.locator(".token", has_text="饕").hover()
    assert "3 个词元合成" in page.locator("#card").inner_text()
    for alternatives in page.locator("#card section").all():
        assert alternatives.locator("div").count() in (5, 6)
        assert alternatives.locator(".drawn").count() == 1


def test_enter_that_ends_a_composition_does_not_send(visit):
    page = visit()
    page.focus("#draft")
    keyboard = page.context.new_cdp_session(page)
    keyboard.send("Input.imeSetComposition", {"text": "nihao", "selectionStart": 5, "selectionEnd": 5})
    enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
    page.evaluate("document.addEventListener('keydown', e => { document.body.dataset.composing = e.isComposing })")
    keyboard.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", **enter})
    assert page.locator("body").get_attribute("data-composing") == "true"
    keyboard.send("Input.insertText", {"text": "你好"})
    assert page.input_value("#draft") == "你好"
    page.press("#draft", "Shift+Enter")
    page.keyboard.type("再见")
    assert visit.posts == []
    page.keyboard.press("Enter")
    settled(page)
    assert visit.asked() == ["你好\n再见"]


def test_a_reload_keeps_conversation_settings_and_draft(visit):
    page = visit()
    ask(page, "一")
    act(page, "词元")
    page.fill("#system", "简短")
    page.fill("#draft", "还没问完")
    setting(page, "temperature", 0.35)
    tokens, said = page.locator(".token").all_text_contents(), raw_answers(page)
    page.reload()
    page.locator("#send:enabled").wait_for()
    assert page.locator(".token").all_text_contents() == tokens
    assert page.input_value("#draft") == "还没问完"
    assert page.input_value("#temperature-number") == "0.35"
    ask(page, "二")
    assert visit.asked() == ["简短", "一", *said, "二"]


def test_two_tabs_keep_their_own_conversations(visit):
    first = visit()
    ask(first, "一")
    second = first.context.new_page()
    second.goto(first.url)
    second.locator("#send:enabled").wait_for()
    assert raw_answers(second) == raw_answers(first), "a new tab begins with what was kept last"
    ask(second, "二")
    said = [raw_answers(page) for page in (first, second)]
    assert [len(answers) for answers in said] == [1, 2]
    for page in (first, second):
        page.reload()
        page.locator("#send:enabled").wait_for()
    assert [raw_answers(page) for page in (first, second)] == said


@pytest.mark.parametrize("kept", ["{", "[1]", '{"turns": {"chat": [1, {"question": 2}]}, "knobs": 3, "mode": 4}'])
def test_what_is_kept_may_be_broken(visit, kept):
    page = visit()
    page.evaluate("kept => { for (const s of [localStorage, sessionStorage]) s.setItem('danlu.page', kept) }", kept)
    page.reload()
    page.locator("#send:enabled").wait_for()
    ask(page, "一")
    assert len(raw_answers(page)) == 1
    assert page.locator(".fault").count() == 0


def test_a_browser_that_keeps_nothing_can_still_talk(visit):
    page = visit()
    page.add_init_script("Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError') }")
    page.reload()
    page.locator("#send:enabled").wait_for()
    ask(page, "一")
    assert answers(page)[0]
    assert "导出" in page.locator(".notice").inner_text()


def test_both_languages(visit):
    page = visit(locale="en-GB")
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.get_by_role("button", name="Complete").is_visible()
    ask(page, "How are you?")
    assert "tokens/s" in page.locator(".facts").inner_text()
    page.get_by_role("button", name="中文").click()
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    assert "词元/秒" in page.locator(".facts").inner_text()
    page.reload()
    page.get_by_role("button", name="续写").wait_for()
    assert page.evaluate("Object.values(WORDS).filter(pair => pair.length !== 2 || !pair[0] || !pair[1])") == []


def test_dark_and_light(visit):
    def paper(page):
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    dark, light = "rgb(22, 20, 17)", "rgb(246, 243, 236)"
    page = visit(color_scheme="dark")
    assert paper(page) == dark
    page.get_by_role("button", name="明暗").click()
    assert paper(page) == light
    page.reload()
    assert paper(page) == light
    page.get_by_role("button", name="明暗").click()
    assert paper(page) == dark
    assert paper(visit(color_scheme="light")) == light


@pytest.mark.parametrize("locale", ["zh-CN", "en-GB"])
def test_a_phone_shows_everything_without_scrolling_sideways(visit, locale):
    page = visit(locale=locale, viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    ask(page, "https://danlu.invalid/" + "x" * 60)
    page.locator(".acts button").first.tap()
    page.locator(".token").first.tap()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    box = page.locator("#card").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    page.locator("#modes button").nth(2).tap()
    ask(page, "x" * 60)
    assert page.locator("#settings").is_hidden()
    page.locator("#modes button").nth(0).tap()
    page.locator("#sheet").tap()
    page.locator("#temperature-range").fill("0.1")
    page.locator("#clear").tap()
    page.keyboard.press("Escape")
    assert page.locator("#settings").is_hidden()
    assert page.locator(".turn").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_every_control_has_a_name(visit):
    page = visit()
    ask(page, "一")
    nameless = page.evaluate(
        """[...document.querySelectorAll('button, input, textarea, select')]
            .filter(node => !node.textContent && !node.labels?.[0]?.textContent && !node.getAttribute('aria-label'))
            .map(node => node.id)"""
    )
    assert nameless == []


def test_a_key_is_asked_for_and_goes_with_the_tab(visit, serving, random_model, taught):
    with serving(random_model, taught, api_key="secret") as closed:
        page = visit(closed.url, wait=False)
        page.locator("#key").wait_for()
        page.fill("#secret", "wrong")
        page.press("#secret", "Enter")
        page.locator("#key label", has_text="密钥不对").wait_for()
        page.fill("#secret", "secret")
        page.press("#secret", "Enter")
        page.locator("#send:enabled").wait_for()
        assert page.locator("#key").is_hidden()
        setting(page, "max_tokens", 12)
        ask(page, "一")
        assert "secret" not in page.evaluate("JSON.stringify(localStorage)")
        page.evaluate("sessionStorage.setItem('danlu.key', 'old')")  # as if the server had another key by now
        ask(page, "二")
        assert "API 密钥" in fault_of(page)
        page.fill("#secret", "secret")
        page.press("#secret", "Enter")
        page.locator(".fault").wait_for(state="detached")  # the question was not lost
        settled(page)
        assert len(raw_answers(page)) == 2


def test_a_server_that_was_begun_anew_with_another_model(visit, stub):
    stub.refuse(404, "there is no model 'tiny'", code="model_not_found")
    stub.say("好。")
    page = visit(stub.url)
    stub.models = [{**MODEL, "id": "other"}]
    ask(page, "一")
    page.get_by_role("heading", name="other").wait_for()
    page.get_by_role("button", name="再试一次").click()
    page.locator(".text", has_text="好").wait_for()
    assert [body["model"] for _, body in stub.asked] == ["tiny", "other"]


def test_a_full_context_can_be_met_by_forgetting_the_older_half(visit):
    page = visit()
    asked = 0
    while page.locator(".fault").count() == 0 and asked < 20:
        ask(page, f"问题{asked}")
        asked += 1
    assert fault_of(page).startswith("超出了模型的上下文")
    page.get_by_role("button", name="忘掉较早的一半").click()
    settled(page)
    assert page.locator(".fault").count() == 0
    gone = asked // 2
    assert visit.asked()[::2] == [f"问题{i}" for i in range(gone, asked)]
    assert page.locator(".forgotten").count() == gone


def test_clear_can_be_undone_and_export_is_read_by_finetune(visit, tmp_path):
    page = visit()
    page.fill("#system", "简短")
    ask(page, "一")
    (answer,) = raw_answers(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="导出").click()
    assert re.fullmatch(r"danlu-chat-\d{4}-\d\d-\d\d\.json", download.value.suggested_filename)
    file = tmp_path / "talk.json"
    download.value.save_as(file)
    (talk,) = Conversations(Corpus([str(file)], text_key=None))
    assert [(m.role, m.content) for m in talk.messages] == [("system", "简短"), ("user", "一"), ("assistant", answer)]
    page.get_by_role("button", name="清空").click()
    assert page.locator(".turn").count() == 0
    page.get_by_role("button", name="撤销").click()
    assert raw_answers(page) == [answer]
    page.get_by_role("button", name="清空").click()
    page.reload()
    page.locator(".empty").wait_for()
    assert page.locator(".turn").count() == 0


def test_copy_gives_the_text_as_it_is(visit):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    ask(page, "一")
    act(page, "复制")
    page.get_by_role("button", name="已复制").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == raw_answers(page)[0]


def test_an_answer_grows_as_it_is_streamed(visit, stub):
    stub.leave = threading.Semaphore(0)
    stub.say("长江", "是中国", "最长的河。")
    page = visit(stub.url)
    ask(page, "长江？", wait=False)
    for seen in ("长江", "长江是中国", "长江是中国最长的河。"):
        stub.leave.release()
        page.locator(".text", has_text=re.compile(f"^{seen}$")).wait_for()
    page.locator(".turn:not(.busy)").wait_for()
    assert page.locator(".facts").inner_text().startswith("4 词元")
    assert "词元/秒" in page.locator(".facts").inner_text()
    assert "上下文 24/128" in page.locator(".facts").inner_text()
    assert stub.asked[0][0] == "/v1/chat/completions"
    assert "长江是中国最长的河。" in page.locator("#status").inner_text()  # what a screen reader says


def test_the_page_follows_the_text_unless_its_reader_looks_elsewhere(visit, stub):
    def below(page):
        return page.evaluate("document.documentElement.scrollHeight - innerHeight - scrollY")

    stub.leave = threading.Semaphore(40)
    stub.say(*(f"{i}\n" for i in range(80)))
    page = visit(stub.url)
    ask(page, "数到八十", wait=False)
    page.locator(".text", has_text="39").wait_for()
    page.wait_for_function("() => document.documentElement.scrollHeight - innerHeight - scrollY < 2")
    page.evaluate("scrollTo(0, 0)")
    for _ in range(40):
        stub.leave.release()
    settled(page)
    assert below(page) > 1000
    assert page.evaluate("scrollY") == 0
    stub.say(*(f"{i}\n" for i in range(80)))
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    act(page, "重新生成")
    for _ in range(80):
        stub.leave.release()
    settled(page)
    page.locator(".text", has_text="79").wait_for()
    assert below(page) < 2


def test_stop_ends_the_answer_and_keeps_what_came(visit, stub):
    stub.leave = threading.Semaphore(1)
    stub.say("一", *("再" for _ in range(40)))
    stub.say("好。")
    page = visit(stub.url)
    ask(page, "数数", wait=False)
    page.locator(".text", has_text="一").wait_for()
    page.get_by_role("button", name="停止").click()
    page.locator(".turn:not(.busy)").wait_for()
    for _ in range(45):
        stub.leave.release()
    assert stub.left.wait(10), "the server was not told that nobody listens any more"
    assert answers(page) == ["一"]
    assert "已停止" in page.locator(".facts").inner_text()
    ask(page, "然后？")
    assert [m["content"] for m in stub.asked[1][1]["messages"]] == ["数数", "一", "然后？"]


def test_a_model_brings_its_own_defaults(visit, serving, random_model, taught):
    with serving(random_model, taught, generation={"temperature": 0.3, "top_k": 9}) as found:
        page = visit(found.url)
        ask(page, "一")
        sent = visit.posts[0][1]
        assert (sent["temperature"], sent["top_k"], sent["top_p"]) == (0.3, 9, 0.95)
        assert page.input_value("#temperature-number") == "0.3"


def test_tokens_are_coloured_and_their_card_tells_the_alternatives(visit, stub):
    mountain = "山".encode()
    stub.say(
        ("好", [{**likely("好", 0.6), "top": [likely("好", 0.6), likely("坏", 0.1)]}]),
        ("", [{**likely(mountain[:2], 0.25), "top": [likely(mountain[:2], 0.25)]}]),
        ("山", [{**likely(mountain[2:], 0.5), "top": [likely("岳".encode()[2:], 0.25), likely(mountain[2:], 0.5)]}]),
        (" \n", [{**likely(" \n", 0.0002), "top": [likely("。", 0.9)]}]),
        ("\ufffd", [likely(b"\xff", 0.125)]),
        ("", [likely("<|im_end|>", 0.01)]),
    )
    page = visit(stub.url)
    ask(page, "如何")
    act(page, "词元")
    tokens = page.locator(".token")
    assert tokens.all_inner_texts() == ["好", "山", "␣↵\n", "FF", "<|im_end|>"]
    assert page.locator(".beyond").all_inner_texts() == ["<|im_end|>"]
    bits = -sum(map(math.log2, (0.6, 0.25, 0.5, 0.0002, 0.125))) / 5
    assert f"每字 {bits:.2f} 比特" in page.locator(".scale").inner_text()
    colours = [tokens.nth(i).evaluate("node => node.style.background") for i in range(4)]
    assert "--p0" in colours[0]
    assert re.fullmatch(r"linear-gradient\(.*--p1.* 50%, .*--p0.* 100%\)", colours[1])
    assert "--p4" in colours[2]
    card = page.locator("#card")
    assert card.is_hidden()
    tokens.nth(0).hover()
    assert card.inner_text().split("\n")[:2] == ["好", "60.0%"]
    assert "坏" in card.inner_text()
    assert "0.74 比特" in card.inner_text()
    tokens.nth(1).hover()
    assert "2 个词元合成" in card.inner_text()
    assert "12.5%" in card.inner_text()  # of both pieces together
    assert "E5 B1" in card.inner_text()
    assert card.locator("section").nth(1).locator("div span").all_inner_texts()[1] == "山"
    tokens.nth(2).hover()
    assert card.locator(".drawn").inner_text().startswith("␣↵")  # it was none of the likeliest, and stands below them
    page.mouse.move(2, 2)
    assert card.is_hidden()


def test_tokens_are_reached_by_keyboard_and_by_a_tap(visit, stub):
    stub.say("一", "二", "三")
    page = visit(stub.url, has_touch=True)
    ask(page, "数")
    act(page, "词元")
    page.keyboard.press("Shift+Tab")
    assert page.locator("#card h3").inner_text().startswith("一")
    page.keyboard.press("ArrowRight")
    assert page.locator("#card h3").inner_text().startswith("二")
    assert page.locator(".token[tabindex='0']").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("#card").is_hidden()
    page.locator(".token").nth(2).tap()
    assert page.locator("#card h3").inner_text().startswith("三")
    page.locator("#name").tap()
    assert page.locator("#card").is_hidden()


def test_any_text_can_be_scored(visit, stub):
    first, second = "bytes:\\xe9\\x9c", "bytes:\\x9c"  # how OpenAI names pieces of a character
    stub.script.append(
        {
            "scored": {
                "tokens": ["地上", first, second],
                "token_logprobs": [None, math.log(0.5), math.log(0.125)],
                "top_logprobs": [None, {first: math.log(0.5), "，": math.log(0.25)}, {}],
                "text_offset": [0, 2, 2],
            }
        }
    )
    page = visit(stub.url)
    page.get_by_role("button", name="词元").click()
    ask(page, "地上霜")
    path, body = stub.asked[0]
    assert path == "/v1/completions"
    assert {**body, "model": ""} == {"model": "", "prompt": "地上霜", "echo": True, "max_tokens": 0, "logprobs": 5}
    assert page.locator(".token").all_inner_texts() == ["地上", "霜"]
    assert "每字 4.00 比特" in page.locator(".scale").inner_text()  # of the one character that was scored
    page.locator(".token").first.hover()
    assert "没有评分" in page.locator("#card").inner_text()


def test_what_a_model_writes_stays_text(visit, stub):
    stub.models = [{**MODEL, "id": HOSTILE}]
    stub.say(HOSTILE)
    stub.refuse(400, HOSTILE)
    page = visit(stub.url)
    ask(page, HOSTILE)
    assert answers(page) == [HOSTILE]
    assert page.locator(".asked").inner_text() == HOSTILE
    act(page, "词元")
    page.locator(".token").first.hover()
    ask(page, "二")
    assert HOSTILE in fault_of(page)
    page.reload()
    page.locator(".token").wait_for()
    assert page.locator("#turns img, #turns script, #card img, header img").count() == 0
    assert page.title() == f"{HOSTILE} · danlu"


def test_control_characters_are_seen_and_blanks_kept(visit, stub):
    stub.say("甲\x00\x1b[31m  乙\n丙\u202e丁\u200b\r\n戊")
    page = visit(stub.url)
    ask(page, "一")
    assert page.locator(".text").evaluate("node => node.textContent") == "甲␀␛[31m  乙\n丙⟨U+202E⟩丁⟨U+200B⟩\n戊"
    assert page.locator(".text").evaluate("node => getComputedStyle(node).whiteSpace") == "pre-wrap"


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ({"status": 429, "Retry_After": "7"}, "服务器正忙：7 秒后再试。"),
        ({"status": 429}, "服务器正忙：过一会儿再试。"),
        ({"status": 400, "message": "top_k: no"}, "服务器没有接受：top_k: no"),
        ({"status": 500, "message": "see the log"}, "服务器出错（500）：看看它的终端，再试一次。see the log"),
        ({"status": 400, "code": "context_length_exceeded"}, "超出了模型的上下文"),
    ],
)
def test_an_error_is_a_line_that_says_what_to_do(visit, stub, refusal, words):
    stub.refuse(**refusal)
    stub.say("好。")
    page = visit(stub.url)
    ask(page, "一")
    assert fault_of(page).startswith(words)
    assert page.get_by_role("alert").count() == 1
    page.get_by_role("button", name="再试一次").click()
    page.locator(".text", has_text="好").wait_for()
    assert page.locator(".fault").count() == 0


@pytest.mark.parametrize("how", [{"broken": True}, {"fails": {"message": "too slow", "code": "timeout"}}])
def test_a_stream_that_breaks_keeps_what_came(visit, stub, how):
    stub.say("说到一", "半", **how)
    stub.say("好。")
    page = visit(stub.url)
    ask(page, "一")
    assert answers(page) == ["说到一半"]
    assert fault_of(page).startswith("连接中断了" if "broken" in how else "服务器出错（timeout）")
    page.get_by_role("button", name="再试一次").click()
    page.locator(".text", has_text="好").wait_for()
    assert answers(page) == ["好。"]


def test_a_server_that_is_not_there(visit, stub):
    page = visit(stub.url)
    stub.shutdown()
    stub.server_close()
    ask(page, "一")
    assert fault_of(page).startswith("连不上服务器")
