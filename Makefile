# Every target makes the virtual environment it needs: only Python 3.10 or newer and make must be there.
PYTHON ?= python3
VENV ?= .venv
OLDEST ?= .venv-oldest
DATA ?=
OUTPUT ?= outputs/demo
MODEL ?=
SPACE ?= outputs/space
BENCH ?=

# Two to four processes at once, each with one thread: on few cores threads of several processes wait for each other.
PYTEST = OMP_NUM_THREADS=1 $(1)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: bench demo robustness space test test-oldest lint clean

## The demonstration: a small model, trained here for minutes, predicts real photographs. DATA=folder for your frames.
demo: $(VENV)/demo.stamp
	$(VENV)/bin/llm-mde demo $(if $(DATA),--data $(DATA)) --output $(OUTPUT)

## The Space, at http://127.0.0.1:7860. MODEL=folder or Hub id; by default the demonstration's, which is trained first.
space: $(VENV)/space.stamp $(if $(MODEL),,$(OUTPUT)/model)
	test ! -e $(SPACE) -o -f $(SPACE)/space.json || { echo "SPACE=$(SPACE) is there and no Space: choose another."; exit 2; }
	rm -rf $(SPACE).new
	$(VENV)/bin/llm-mde publish space --model $(or $(MODEL),$(OUTPUT)/model) --output $(SPACE).new
	rm -rf $(SPACE) && mv $(SPACE).new $(SPACE)
	cd $(SPACE) && $(abspath $(VENV))/bin/python app.py

$(OUTPUT)/model:
	$(MAKE) demo

## The tests. LLM_MDE_DATA=folder runs those on real RGB-D frames as well.
test: $(VENV)/dev.stamp
	$(call PYTEST,$(VENV))

## The same tests with the oldest supported versions of every dependency.
test-oldest: $(OLDEST)/dev.stamp
	$(call PYTEST,$(OLDEST))

## Speed and memory beside other models, in some 25 minutes. BENCH="--quick --only inference" for less of it.
bench: $(VENV)/dev.stamp
	$(VENV)/bin/python -m benchmarks $(BENCH)

## Hostile input, kills, full disks and long runs in full, one after the other, with the table of what came of them.
robustness: $(VENV)/dev.stamp
	LLM_MDE_LONG=1 LLM_MDE_ROBUSTNESS=benchmarks/results/robustness.md OMP_NUM_THREADS=1 \
		$(VENV)/bin/python -m pytest tests/robustness

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
