# Variables become options of the command: `make build-ncc LIMIT=100 OUT=data/small` is
# `nbench build ncc --limit 100 --out data/small`; ARGS is handed on as it is.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

BUILD    = PIPELINE OUT PROMPTS LIMIT STEPS GUIDANCE CANDIDATES POSITIONS BATCH_SIZE DTYPE SEED ROWS_PER_SHARD FORMAT LATENT_DTYPE
EVALUATE = BENCH LATENTS OUT PLOT
TRAIN    = DATA OUT POSITIONS START EPOCHS BATCH_SIZE LEARNING_RATE TARGETS SEED

# --name 'value' for each of the variables that is set
flags = $(foreach name,$(1),$(if $($(name)),--$(shell echo $(name) | tr A-Z_ a-z-) '$($(name))')) $(ARGS)

.DEFAULT_GOAL := help
.PHONY: setup demo test test-all test-envs lint docs build-ncc build-genai-bench evaluate train world experiments perf clean help

setup: $(READY) ## install everything into .venv

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) setuptools
	$(PIP) --no-compile --no-build-isolation -e '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # on all cores; pip compiles on one
	mkdir -p $(VENV)/src && ln -sfn ../.. $(VENV)/src/nbench
	touch $@

demo: BENCH_DIR = $(or $(OUT),data/demo-bench$(if $(LIMIT),-$(LIMIT)))
demo: $(READY) ## build a small bench and score CLIP and NoisyCLIP on it (LIMIT, OUT)
	$(BIN)/nbench build genai-bench --limit $(or $(LIMIT),40) --out '$(BENCH_DIR)' $(ARGS)
	$(BIN)/nbench evaluate --model clip --model noisyclip --bench '$(BENCH_DIR)' --latents 0:50:5 --plot results/demo.png
	@echo
	@echo 'bench:   $(BENCH_DIR)'
	@echo 'scores:  results/$(notdir $(BENCH_DIR))/'
	@echo 'picture: results/demo.png'

TEST = OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test: $(READY) ## run the tests but for the slow ones, one process per core (ARGS)
	$(TEST) -m 'not slow' $(ARGS)

test-all: $(READY) ## run all tests (ARGS)
	$(TEST) $(ARGS)

test-envs: $(READY) ## make the environments of scorer packages (nbench env) and compare our scores with theirs (ARGS)
	$(BIN)/nbench env t2v_metrics $(ARGS)
	$(BIN)/nbench env image-reward $(ARGS)
	$(BIN)/nbench env hpsv3 $(ARGS)
	$(BIN)/python tests/scorers/recorded/compare.py
	$(BIN)/pytest tests/scorers/test_clip_flant5.py tests/scorers/test_llava.py tests/scorers/test_instruct_blip.py tests/scorers/test_image_reward.py

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(READY) ## write the tables of docs/metrics.md, and build the docs as a site: build/docs/index.html
	$(BIN)/python -m nbench.benchmarks.metrics.docs_tables docs/metrics.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

build-ncc: $(READY) ## build Noisy-Conceptual-Captions: captions, corruptions, latents (PIPELINE, PROMPTS, OUT, LIMIT, ...)
	$(BIN)/nbench build ncc $(call flags,$(BUILD))

build-genai-bench: $(READY) ## build Noisy-GenAI-Bench, with reference scores (PIPELINE, PROMPTS, OUT, LIMIT, ...)
	$(BIN)/nbench build genai-bench $(call flags,$(BUILD))

evaluate: $(READY) ## score models on a bench (MODEL='clip noisyclip', BENCH, LATENTS, OUT, PLOT)
	$(BIN)/nbench evaluate $(foreach model,$(MODEL),--model '$(model)') $(call flags,$(EVALUATE))

train: $(READY) ## train NoisyCLIP on an NCC (DATA, OUT, POSITIONS, EPOCHS, ...)
	$(BIN)/nbench train noisyclip $(call flags,$(TRAIN))

world: $(READY) ## train the models of the embedded world again, from nothing (about four hours)
	$(BIN)/python -m nbench.shapes.recipe $(ARGS)

EXPERIMENTS = heat-map objectives processes estimates rows generators judge captions frontier frontier-unet
experiments: $(READY) ## run the experiments of docs/experiments.md that were not run yet, and write the page
	$(BIN)/python -m nbench.experiments $(ARGS)

$(EXPERIMENTS:%=experiment-%): experiment-%: $(READY)
	$(BIN)/python -m nbench.experiments $* $(ARGS)

perf: $(READY) ## time nbench's shards beside other ways to keep latents, and what recording, scoring and sampling cost (ARGS='--rows 8 --json perf.json')
	$(BIN)/python perf/shards.py $(ARGS)
	$(BIN)/python perf/help.py
	$(BIN)/python perf/recorder.py
	$(BIN)/python perf/evaluate.py
	$(BIN)/python perf/sampling.py
	$(BIN)/python perf/engine.py
	$(BIN)/python perf/scorer_environments.py

clean: ## remove .venv, caches and build outputs; data/ and results/ stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-18s %s\n", $$1, $$2 }'
