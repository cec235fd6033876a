# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
#
# For a machine without ROS 2: everything is installed into .venv, nothing outside it.
# With ROS 2, use colcon; none of this is needed then.

VENV := .venv
BIN := $(VENV)/bin

# The interpreter that .venv is made from. Empty: the first one that fits of CANDIDATES.
PYTHON ?=
CANDIDATES := python3 python3.12 python3.11
SUPPORTED := import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))

# Passed on: to `mbrl demo` by demo, to pytest by test.
ARGS ?=
# More options for pip, such as another package index.
PIP_ARGS ?=

# A stamp is written only after everything before it went well. As long as it is newer than these
# files, nothing is installed and no network is used.
INPUTS := setup.py setup.cfg pyproject.toml constraints.txt Makefile
CREATED := $(VENV)/.created
INSTALLED := $(VENV)/.installed
INSTALLED_TEST := $(VENV)/.installed-test

# $(call pip_install,WHAT): quiet, unless it fails.
PIP_LOG := $(VENV)/pip.log
define pip_install
$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt \
	$(PIP_ARGS) $(1) >>$(PIP_LOG) 2>&1 || { \
		tail -n 15 $(PIP_LOG); \
		echo "The installation failed. All that pip said is in $(PIP_LOG)."; \
		echo "The wheels of rclpy need Linux on x86-64. Run make again to go on."; \
		exit 1; \
	}
endef
# The setuptools of .venv builds the package; otherwise pip would download one for it.
DEMO_PACKAGE := --no-build-isolation --editable '.[ros,sim]'
TEST_PACKAGE := --no-build-isolation --editable '.[ros,sim,bench,test]'

# In a terminal where ROS 2 was sourced, its rclpy and the one in .venv would get mixed.
ifdef AMENT_PREFIX_PATH
unexport AMENT_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH PYTHONPATH RMW_IMPLEMENTATION
endif

.DEFAULT_GOAL := help
.PHONY: help demo test lint clean

help:
	@echo 'make demo   a simulated robot learns its own dynamics and reaches its goal; options'
	@echo '            through ARGS, such as  make demo ARGS="pace:=lockstep duration:=40.0"'
	@echo 'make test   style, types and all tests; pytest options through ARGS'
	@echo 'make lint   style (ruff) and types (mypy) only'
	@echo 'make clean  remove .venv, build folders and caches'
	@echo
	@echo 'The first run installs into .venv. PYTHON=... picks the interpreter (3.11 or 3.12),'
	@echo 'PIP_ARGS=... adds options of pip.'

demo: $(INSTALLED)
	@$(BIN)/mbrl demo $(ARGS)

# Tests must not meet a robot or another run on the network.
test: export ROS_AUTOMATIC_DISCOVERY_RANGE := LOCALHOST
test: lint
	@echo "Running the tests ..."
	@$(BIN)/python -m pytest $(ARGS)

lint: $(INSTALLED_TEST)
	@echo "Checking style (ruff) ..."
	@$(BIN)/ruff check .
	@echo "Checking types (mypy) ..."
	@$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(CREATED):
	@python=; \
	for candidate in $(if $(PYTHON),'$(PYTHON)',$(CANDIDATES)); do \
		if "$$candidate" -c '$(SUPPORTED)' 2>/dev/null; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "mbrl_ros needs Python 3.11 or 3.12; none of these is one: $(or $(PYTHON),$(CANDIDATES))."; \
		echo "Name one that is: make PYTHON=/usr/bin/python3.12 $(MAKECMDGOALS)"; \
		exit 1; \
	fi; \
	echo "Creating $(VENV) with $$("$$python" --version) ..."; \
	rm -rf $(VENV); \
	"$$python" -m venv $(VENV) || { \
		rm -rf $(VENV); \
		echo "$$python could not create a virtual environment."; \
		echo "On Debian and Ubuntu its package is missing: apt install $$(basename "$$python")-venv"; \
		exit 1; \
	}
	@touch $@

$(INSTALLED): $(INPUTS) | $(CREATED)
	@rm -f $(PIP_LOG)
	@echo "Installing PyTorch (about 200 MB; 3 GB if pip finds its CUDA build only) ..."
	@$(call pip_install,setuptools torch)
	@echo "Installing rclpy, MuJoCo and mbrl_ros (about 120 MB) ..."
	@$(call pip_install,$(DEMO_PACKAGE))
	@touch $@

$(INSTALLED_TEST): $(INSTALLED)
	@echo "Installing the test tools (about 35 MB) ..."
	@$(call pip_install,$(TEST_PACKAGE))
	@touch $@
