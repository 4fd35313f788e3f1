"""What each error reply is taken to mean."""

from __future__ import annotations

import pytest

from live.exchange.error_codes import RULES, Outcome, rule_for


@pytest.mark.parametrize(
    ("code", "http_status", "text", "outcome"),
    [
        (None, 503, "Unknown error, please check your request or try again later.", Outcome.UNKNOWN),
        (None, 503, "Service Unavailable.", Outcome.FAILED),
        (None, 503, "Internal error; unable to process your request. Please try again.", Outcome.FAILED),
        (None, 503, "Request throttled by system-level protection.", Outcome.FAILED),
        (-1001, 503, "anything", Outcome.FAILED),
        (-1008, 503, "anything", Outcome.FAILED),
        (-1000, 400, "", Outcome.UNKNOWN),
        (-1006, 500, "", Outcome.UNKNOWN),
        (-1007, 408, "", Outcome.UNKNOWN),
        (None, 408, "", Outcome.UNKNOWN),
        (None, 502, "no JSON, but: Bad Gateway", Outcome.UNKNOWN),
        (None, 504, "", Outcome.UNKNOWN),
        (-9999, 500, "a new server error", Outcome.UNKNOWN),
        (None, 200, "no JSON, but: hello", Outcome.UNKNOWN),
        (None, 403, "no JSON, but: firewall", Outcome.FAILED),
        (None, 404, "no JSON, but: not found", Outcome.REFUSED),
        (-9999, 400, "a new refusal", Outcome.REFUSED),
        (-1003, 429, "", Outcome.LIMITED),
        (None, 418, "", Outcome.LIMITED),
        (-1015, 400, "", Outcome.LIMITED),
        (-1021, 400, "", Outcome.CLOCK),
        (-5028, 400, "", Outcome.CLOCK),
        (-2015, 401, "", Outcome.FORBIDDEN),
        (-2019, 400, "", Outcome.REFUSED),
        (-2013, 400, "", Outcome.NOT_FOUND),
        (-2011, 400, "", Outcome.NOT_FOUND),
        (-4046, 400, "", Outcome.ALREADY),
        (-4137, 400, "", Outcome.REFUSED),
        (-4211, 400, "", Outcome.REFUSED),
        (-4402, 400, "", Outcome.FORBIDDEN),
    ],
)
def test_outcome(code: int | None, http_status: int, text: str, outcome: Outcome) -> None:
    assert rule_for(code, http_status, text).outcome is outcome


def test_every_code_of_the_fact_sheet_has_a_rule_and_a_remedy() -> None:
    single = """-1000 -1001 -1002 -1003 -1006 -1007 -1008 -1013 -1015 -1016 -1021 -1022 -1099 -1102 -1106 -1111 -1115
        -1116 -1117 -1120 -1121 -1125 -1130 -2010 -2011 -2012 -2013 -2014 -2015 -2017 -2018 -2019 -2020 -2021 -2022
        -2023 -2024 -2025 -2026 -2027 -2028 -4001 -4002 -4003 -4004 -4005 -4013 -4014 -4015 -4016 -4021 -4023 -4024
        -4028 -4045 -4046 -4047 -4048 -4050 -4051 -4059 -4060 -4061 -4067 -4068 -4082 -4087 -4088 -4109 -4116 -4117
        -4118 -4120 -4131 -4161 -4164 -4165 -4183 -4184 -4192 -4531 -5021 -5022 -5027 -5028"""
    ranges = (*range(-4142, -4134), *range(-4211, -4201), *range(-4403, -4399))
    listed = [*map(int, single.split()), *ranges]
    assert not [code for code in listed if code not in RULES]
    assert all(rule.remedy.endswith(".") for rule in RULES.values())
