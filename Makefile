# Every target makes the virtual environment it needs: only Python 3.10 or newer and make must be there.
PYTHON ?= python3
VENV ?= .venv
OLDEST ?= .venv-oldest
DATA ?=
OUTPUT ?= outputs/demo
MODEL ?=
SPACE ?= outputs/space

export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: demo space test test-oldest lint clean

## The demonstration: a small model, trained here for minutes, predicts real photographs. DATA=folder for your frames.
demo: $(VENV)/demo.stamp
	$(VENV)/bin/llm-mde demo $(if $(DATA),--data $(DATA)) --output $(OUTPUT)

## The Space, at http://127.0.0.1:7860. MODEL=folder or Hub id; by default the demonstration's, which is trained first.
space: $(VENV)/space.stamp $(if $(MODEL),,$(OUTPUT)/model)
	rm -rf $(SPACE)
	$(VENV)/bin/llm-mde publish space --model $(or $(MODEL),$(OUTPUT)/model) --output $(SPACE)
	cd $(SPACE) && $(abspath $(VENV))/bin/python app.py

$(OUTPUT)/model:
	$(MAKE) demo

## The tests. LLM_MDE_DATA=folder runs those on real RGB-D frames as well.
test: $(VENV)/dev.stamp
	$(VENV)/bin/python -m pytest

## The same tests with the oldest supported versions of every dependency.
test-oldest: $(OLDEST)/dev.stamp
	$(OLDEST)/bin/python -m pytest

lint: $(VENV)/dev.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:
	rm -rf $(VENV) $(OLDEST) outputs build dist *.egg-info

$(VENV)/%.stamp: pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable ".[$*]"
	touch $@

$(OLDEST)/%.stamp: pyproject.toml constraints-oldest.txt
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --upgrade pip
	$(OLDEST)/bin/python -m pip install --quiet --constraint constraints-oldest.txt --editable ".[$*]"
	touch $@
