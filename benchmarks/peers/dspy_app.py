"""DSPy's documented FastAPI deployment of `dspy.Predict("question -> answer")`.

The application of its deployment tutorial, without the streaming endpoint. The cache is off: it
would answer the one question of the benchmark without any call of the model.
"""

from __future__ import annotations

import os
from typing import Any

import dspy
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

UPSTREAM_VARIABLE = "DSPEX_BENCH_UPSTREAM"

app = FastAPI(title="DSPy Program API")


class Question(BaseModel):
    text: str


lm = dspy.LM("openai/mock-1", api_base=os.environ[UPSTREAM_VARIABLE], api_key="none", cache=False)
dspy.configure(lm=lm, async_max_workers=4)
dspy_program = dspy.asyncify(dspy.Predict("question -> answer"))


@app.post("/predict")
async def predict(question: Question) -> dict[str, Any]:
    try:
        result = await dspy_program(question=question.text)
        return {"status": "success", "data": result.toDict()}
    except Exception as error:
        raise HTTPException(status_code=500, detail=str(error)) from error
