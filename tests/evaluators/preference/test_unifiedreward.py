"""UnifiedReward against a server of our own that answers, stumbles and refuses."""

import base64
import io
import math
import re
import threading

import pytest
from PIL import Image

from evaluators.base import EvaluatorError, Sample
from evaluators.preference.unifiedreward import (
    UnifiedRewardConfig,
    UnifiedRewardEvaluator,
    parse_score,
)
from tests.evaluators.chat_server import completion, listing


def samples(count):
    return [
        Sample(
            sample_id=str(i),
            prompt_id=str(i),
            prompt=f"{i} {{braces}} stars",
            image=Image.new("RGB", (40, 20), (10 * i, 0, 0)),
        )
        for i in range(count)
    ]


def caption(body):
    return re.search(r"Text Caption: \[(.*)\]", body["messages"][0]["content"][1]["text"])[1]


def evaluator(url, waits=None, **values):
    config = UnifiedRewardConfig(base_url=url, **{"backoff_seconds": 0.5, **values})
    return UnifiedRewardEvaluator(config, sleep=(waits if waits is not None else []).append)


def test_scores_are_a_fifth_of_the_answers_in_order(serve):
    url, server = serve(
        lambda body, _: completion(f"Final Score: {int(caption(body).split()[0]) / 2 + 1}")
    )
    scores = evaluator(url).score(samples(8))
    assert [score.value for score in scores] == [(i / 2 + 1) / 5 for i in range(8)]
    assert server.requests[0][0] == "/v1/chat/completions"


def test_the_request_is_the_published_one(serve, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    url, server = serve(lambda *_: completion("Final Score: 3"))
    evaluator(url, model="judge", api_key_env="JUDGE_KEY").score(samples(1))
    ((_, headers, body),) = server.requests
    assert headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["temperature"]) == ("judge", 0)
    picture, text = body["messages"][0]["content"]
    assert text["text"].endswith("Text Caption: [0 {braces} stars]")
    assert "assign a score from 1 to 5 after 'Final Score:'" in text["text"]
    kind, data = picture["image_url"]["url"].split(",")
    assert kind == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (512, 512)


def test_passing_failures_are_tried_again_with_growing_waits(serve):
    url, _ = serve(
        lambda _, count: (503, {}, "busy") if count < 4 else completion("Final Score: 5")
    )
    waits = []
    assert evaluator(url, waits).score(samples(1))[0].value == 1.0
    assert waits == [0.5, 1.0, 2.0]


def test_the_servers_own_wait_is_kept_to(serve):
    url, _ = serve(
        lambda _, count: (
            (429, {"Retry-After": "7"}, "") if count == 1 else completion("Final Score: 2")
        )
    )
    waits = []
    assert evaluator(url, waits).score(samples(1))[0].value == pytest.approx(0.4)
    assert waits == [7.0]


def test_an_image_without_an_answer_is_unscored_and_the_rest_is_scored(serve):
    url, _ = serve(
        lambda body, _: (500, {}, "") if caption(body)[0] == "1" else completion("Final Score: 4")
    )
    scores = evaluator(url, max_retries=2).score(samples(3))
    assert [score.value for score in scores if score.reason is None] == [0.8, 0.8]
    assert math.isnan(scores[1].value)
    assert scores[1].reason == "no answer in 3 tries: status 500"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (completion("I cannot tell."), "I cannot tell"),
        (completion("Final Score: 7"), "Final Score: 7"),
        ((200, {}, "<html>"), "no chat completion"),
        ((200, {}, '{"choices": []}'), "no chat completion"),
        ((413, {}, "too large"), "status 413"),
    ],
)
def test_an_answer_without_a_score_is_unscored_with_its_words(serve, reply, reason):
    url, server = serve(lambda *_: reply)
    score = evaluator(url).score(samples(1))[0]
    assert math.isnan(score.value)
    assert reason in score.reason
    assert len(server.requests) == 1


def test_an_answer_that_breaks_off_is_asked_for_again(serve):
    # More is announced than is sent.
    cut = (200, {"Transfer-Encoding": "chunked"}, "5\r\nab")
    url, server = serve(lambda _, count: cut if count == 1 else completion("Final Score: 4"))
    assert evaluator(url).score(samples(1))[0].value == pytest.approx(0.8)
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [401, 404])
def test_a_refused_request_stops_the_evaluator(serve, status):
    url, _ = serve(lambda *_: (status, {}, "model not found"))
    with pytest.raises(EvaluatorError, match=f"{status}.*base_url.*OPENAI_API_KEY"):
        evaluator(url).score(samples(3))


def test_a_server_without_the_model_is_one_line(serve):
    url, server = serve(lambda *_: completion("Final Score: 3"))
    server.listed = listing("other", "third")
    with pytest.raises(EvaluatorError, match="serves other, third, not model='judge'") as caught:
        evaluator(url, model="judge").score(samples(2))
    assert "\n" not in str(caught.value)
    assert server.requests == []
    assert evaluator(url, model="third").score(samples(1))[0].value == pytest.approx(0.6)


def test_no_server_ends_the_judging_and_says_how_to_go_on():
    waits = []
    judge = evaluator("http://127.0.0.1:9/v1", waits, max_retries=1)
    message = "http://127.0.0.1:9/v1 is silent in 2 tries .ConnectionError.*start the server"
    with pytest.raises(EvaluatorError, match=message) as caught:
        judge.score(samples(1))
    assert "\n" not in str(caught.value)
    assert waits == [0.5]
    with pytest.raises(EvaluatorError, match=message):
        judge.check_canaries()


@pytest.fixture
def done():
    """Lets the answers that a server holds back go at the end."""
    event = threading.Event()
    yield event
    event.set()


def test_a_server_that_accepts_and_never_answers_ends_the_judging(serve, done):
    url, server = serve(lambda *_: (done.wait(120), completion("Final Score: 1"))[1])
    message = "is silent in 3 tries .ReadTimeout.*raise timeout_seconds=0.1 or max_retries=2"
    with pytest.raises(EvaluatorError, match=message):
        evaluator(url, timeout_seconds=0.1, max_retries=2, concurrency=2).score(samples(40))
    # The images that were not yet under way were not asked about.
    assert len(server.requests) <= 12


def test_one_answer_that_does_not_come_is_unscored(serve, done):
    def reply(body, _):
        if caption(body)[0] == "1":
            done.wait(120)
        return completion("Final Score: 4")

    url, _ = serve(reply)
    # Long enough for the others on a busy machine.
    scores = evaluator(url, timeout_seconds=5, max_retries=0).score(samples(3))
    assert [score.value for score in scores if score.reason is None] == [0.8, 0.8]
    assert "ReadTimeout" in scores[1].reason


def test_requests_under_way_are_bounded(serve):
    gate = threading.Barrier(2, timeout=120)

    def reply(*_):
        # Passes only when two requests meet, so that the bound is reached as well as kept.
        gate.wait()
        return completion("Final Score: 3")

    url, server = serve(reply)
    assert len(evaluator(url, concurrency=2).score(samples(6))) == 6
    assert server.most_under_way == 2


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("Final Score: 4", 4.0),
        ("element (object): 1\nFinal Score:3.5.", 3.5),
        ("Final Score: 4/5", 4.0),
        ("Final Score: 5.5", None),
        ("Final Score: 10", None),
        ("Score: 4", None),
        ("", None),
    ],
)
def test_scores_are_read_from_answers(answer, value):
    assert parse_score(answer) == value


@pytest.mark.parametrize(
    "values",
    [
        {"base_url": "localhost:80"},
        {"base_url": "http://127.0.0.1:80800/v1"},
        {"base_url": "http://host:abc/v1"},
        {"base_url": "http:///v1"},
        {"base_url": "http://[::1/v1"},
        {"concurrency": 0},
        {"timeout_seconds": 0},
        {"max_retries": -1},
        {"image_size": 0},
    ],
)
def test_impossible_configs_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        UnifiedRewardConfig(**values)
