# make demo   the main job, on real input, from an empty machine (about a minute once the packages are there)
# make test   everything: static checks and all tests
# make check  the static checks alone
# make simulate  100,000 schedules of writers, pruners and readers over a network that fails (an hour of one core; SIMULATE_ARGS=--help)
# make test-frameworks  training with each framework, killed and resumed (a few minutes, and 2 GB of packages; TEST_ARGS=-k torch)
# make examples  every training run of examples/, its machine lost and resumed, and its loss curve drawn (10 minutes, and 5 GB of packages; EXAMPLES="c shell")
# make test-examples  the same, without drawing
# make fsx    1,000,000 random operations on a file, across saves and remounts (15 minutes; FSX_ARGS=--help)
# make faults whole-product stories through a proxy that lets requests go wrong (15 minutes; FAULTS_ARGS=--help)
# make crash-points  every durable step of a scenario, killed there and without power there (15 minutes; CRASH_ARGS=--help)
# make soak   training for hours with kills, faults, tags and prunes, every version compared (SOAK_ARGS="--minutes=120")
# make fuzz   minutes of hostile bytes for every decoder, guided by what they reach (FUZZ_ARGS=--seconds=600)
# make bench  speed and bytes beside the native filesystem and other tools, paired (docs/BENCHMARKS.md; BENCH_ARGS=--quick)
# make bench-metaflow  a Metaflow flow with ckptfs and with metaflow-checkpoint on one S3 server (minutes; BENCH_ARGS=--rounds=1)
# make bench-niceness    what an upload takes from programs that keep every processor busy (1 minute)
# make bench-every-step  a small model that is saved at every step, beside the same loop without (4 minutes)
# make bench-stalls  how long a save stops training, for each framework, beside its own save to local disk (minutes)
# make bench-memory  the most memory while 20 GiB and 100,000 files are saved and restored (BENCH_ARGS=--size=2G)
# make bench-codec  what floats take, and the codec's speed, on checkpoints that it trains (minutes; once)
# make test-watch-container  ckptfs watch in containers without /dev/fuse and privileges (needs podman and the base image)
# make install-mount-helper  links mount.ckptfs and umount.ckptfs into /sbin, for mount(8) and /etc/fstab (docs/FSTAB.md)
# make install-systemd  puts ckptfs, ckptfsd and their units on this machine (PREFIX=/opt/ckptfs; docs/DAEMON.md)
# make uninstall-systemd  stops them, and takes away what that put there; configuration and cache directory stay
# make test-systemd  ckptfsd on a systemd that boots in a container (minutes; needs podman)
# make test-container  the images of the Dockerfile, run with podman: mounts seen by other containers, kill -9, lent mounts (docs/CONTAINERS.md)
# make test-compose  compose.yaml, run as it says: an S3 server, ckptfs, a trainer in Node; ckptfs is killed (needs podman, iptables, podman-compose)
# Each makes .venv and installs what it needs; a second run finds it done and is quick.

VENV    := .venv
BIN     := $(VENV)/bin
SOURCES := ckptfs daemon metaflow_extensions demo bench examples tests conftest.py
PYTEST_ARGS ?=
EXAMPLES ?=
EXAMPLES_ARGS ?=
# tests wait as much as they compute: three at once keep two processors busy
TEST_PROCESSES ?= 3
FSX_ARGS ?=
FUZZ_ARGS ?=
SIMULATE_ARGS ?=
FAULTS_ARGS ?=
CRASH_ARGS ?=
SOAK_ARGS ?= --minutes=120
BENCH_ARGS ?=
TEST_ARGS ?=
SBIN    ?= /sbin
PREFIX  ?= /opt/ckptfs
UNITS   ?= /etc/systemd/system

.PHONY: demo test test-frameworks examples test-examples simulate fsx faults crash-points soak fuzz bench bench-codec bench-memory bench-metaflow bench-every-step bench-niceness bench-stalls \
        check format picture install-deps install-mount-helper install-systemd uninstall-systemd test-systemd test-container test-watch-container test-compose clean

demo: $(VENV)/.demo
	@scripts/system-packages demo
	$(BIN)/python -m demo.run

test: check
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal $(PYTEST_ARGS)

check: $(VENV)/.test
	@scripts/system-packages test
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

simulate: $(VENV)/.test
	$(BIN)/python -m tests.versions.simulate $(SIMULATE_ARGS)

test-frameworks: $(VENV)/.frameworks
	@scripts/system-packages test
	CI=true $(BIN)/python -m pytest tests/frameworks $(TEST_ARGS)

examples: $(VENV)/.examples
	@scripts/system-packages examples
	$(BIN)/python -m examples.run --write $(EXAMPLES_ARGS) $(EXAMPLES)

test-examples: $(VENV)/.examples
	@scripts/system-packages examples
	$(BIN)/python -m examples.run $(EXAMPLES_ARGS) $(EXAMPLES)

fsx: $(VENV)/.test
	$(BIN)/python -m tests.fs.fsx $(FSX_ARGS)

faults: $(VENV)/.test
	@scripts/system-packages test
	$(BIN)/python -m tests.faults $(FAULTS_ARGS)

crash-points: $(VENV)/.test
	@scripts/system-packages test
	$(BIN)/python -m tests.crash $(CRASH_ARGS)

soak: $(VENV)/.test
	@scripts/system-packages test
	$(BIN)/python -m tests.soak $(SOAK_ARGS)

fuzz: $(VENV)/.fuzz
	$(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

bench: $(VENV)/.bench
	@scripts/system-packages demo
	$(BIN)/python -m bench $(BENCH_ARGS)

bench-codec: $(VENV)/.bench
	$(BIN)/python -m bench.codec
	$(BIN)/python -m bench.scaling

bench-every-step: $(VENV)/.demo
	$(BIN)/python -m bench.every_step $(BENCH_ARGS)

bench-niceness: $(VENV)/.bench
	$(BIN)/python -m bench.niceness $(BENCH_ARGS)

bench-stalls: $(VENV)/.frameworks
	$(BIN)/python -m bench.stalls $(BENCH_ARGS)

bench-metaflow: $(VENV)/.bench-metaflow
	@scripts/system-packages demo
	$(BIN)/python -m bench.metaflow --peer $(VENV)/metaflow-checkpoint/bin/python $(BENCH_ARGS)

bench-memory: $(VENV)/.bench
	@scripts/system-packages demo
	$(BIN)/python -m bench.memory $(BENCH_ARGS)

test-container:
	scripts/test-container

format: $(VENV)/.test
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

# docs/demo.svg, drawn from what a real run of the demo prints
picture: $(VENV)/.demo
	@scripts/system-packages demo
	$(BIN)/python -m demo.picture docs/demo.svg

install-deps: $(VENV)/.test
	@scripts/system-packages test

# the kernel's table calls the type fuse.ckptfs: umount(8) asks for a helper by that name
install-mount-helper: $(VENV)/.demo
	@umask 022; mkdir -p "$(DESTDIR)$(SBIN)"
	@case "$(BIN)" in /*) bin="$(BIN)";; *) bin="$(CURDIR)/$(BIN)";; esac; \
	for type in ckptfs fuse.ckptfs; do for what in mount umount; do \
	    ln -sfn "$$bin/$$what.ckptfs" "$(DESTDIR)$(SBIN)/$$what.$$type" && echo "$(DESTDIR)$(SBIN)/$$what.$$type"; done; done

# a virtual environment of its own, that does not go when this directory does; configuration that is there is left alone.
# It is for all users, whatever the umask of who installs it; and names itself as it will be called, not below DESTDIR
install-systemd:
	@umask 022; [ -x "$(DESTDIR)$(PREFIX)/bin/python" ] || "$$(scripts/python)" -m venv "$(DESTDIR)$(PREFIX)"
	umask 022; "$(DESTDIR)$(PREFIX)/bin/python" -m pip install --quiet --disable-pip-version-check --use-pep517 '.[daemon]'
	@[ -z "$(DESTDIR)" ] || find "$(DESTDIR)$(PREFIX)/bin" -type f -exec sed -i '1s|^#!$(DESTDIR)$(PREFIX)/|#!$(PREFIX)/|' {} +
	@install -d "$(DESTDIR)/usr/local/bin" "$(DESTDIR)$(UNITS)" "$(DESTDIR)/etc/ckptfs/conf.d" "$(DESTDIR)/usr/local/share/doc/ckptfs"
	@for name in ckptfs ckptfsd mount.ckptfs umount.ckptfs; do ln -sfn "$(PREFIX)/bin/$$name" "$(DESTDIR)/usr/local/bin/$$name"; done
	@$(MAKE) --no-print-directory --old-file=$(VENV)/.demo install-mount-helper BIN="$(PREFIX)/bin"
	install -m 755 systemd/ckptfs-preempt "$(DESTDIR)/usr/local/bin/"
	install -m 644 systemd/*.service "$(DESTDIR)$(UNITS)/"
	install -m 644 systemd/ckptfs.toml.example "$(DESTDIR)/etc/ckptfs/"
	install -m 644 docs/*.md systemd/*.example "$(DESTDIR)/usr/local/share/doc/ckptfs/"
	@[ -e "$(DESTDIR)/etc/ckptfs/ckptfs.toml" ] || install -m 644 systemd/ckptfs.toml "$(DESTDIR)/etc/ckptfs/"
	@[ -n "$(DESTDIR)" ] || [ ! -d /run/systemd/system ] || systemctl daemon-reload
	@echo "next: describe a mount in $(DESTDIR)/etc/ckptfs/conf.d/NAME.toml, then systemctl enable --now ckptfsd"

# stopping drains. A mount that another unit or a line of fstab made is first to be unmounted: its programs are taken away here
uninstall-systemd:
	@[ -n "$(DESTDIR)" ] || [ ! -d /run/systemd/system ] || \
	    { systemctl --quiet disable ckptfs-preempt ckptfsd ckptfs@; systemctl stop ckptfs-preempt ckptfsd 'ckptfs@*'; }
	@[ -n "$(DESTDIR)" ] || ! grep ' fuse\.ckptfs ' /proc/self/mounts || { echo 'these are still mounted: umount them first' >&2; exit 1; }
	cd systemd && for unit in *.service; do rm -f "$(DESTDIR)$(UNITS)/$$unit"; done
	@for type in ckptfs fuse.ckptfs; do rm -f "$(DESTDIR)$(SBIN)/mount.$$type" "$(DESTDIR)$(SBIN)/umount.$$type"; done
	@for name in ckptfs ckptfsd mount.ckptfs umount.ckptfs ckptfs-preempt; do rm -f "$(DESTDIR)/usr/local/bin/$$name"; done
	rm -rf "$(DESTDIR)/usr/local/share/doc/ckptfs" "$(DESTDIR)/etc/ckptfs/ckptfs.toml.example"
	[ ! -e "$(DESTDIR)$(PREFIX)/pyvenv.cfg" ] || rm -rf "$(DESTDIR)$(PREFIX)"
	@[ -n "$(DESTDIR)" ] || [ ! -d /run/systemd/system ] || systemctl daemon-reload
	@echo "what stays: $(DESTDIR)/etc/ckptfs, and $(DESTDIR)/var/cache/ckptfs with what is not durable"

test-systemd: $(VENV)/.test
	$(BIN)/python -m tests.systemd

test-watch-container:
	scripts/test-watch-container

test-compose:
	scripts/test-compose

# pip is asked again only when the list of dependencies changed
$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --editable '.[demo]'
	@touch $@

$(VENV)/.fuzz: $(VENV)/.test
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'atheris>=3,<4' || \
	    echo "atheris cannot be had for this Python: inputs are mutated at random, and not guided by what they reach"
	@touch $@

# metaflow-checkpoint takes the names that ckptfs gives Metaflow: it has an environment of its own
$(VENV)/.bench-metaflow: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --editable '.[demo,metaflow]'
	$(BIN)/python -m venv $(VENV)/metaflow-checkpoint
	$(VENV)/metaflow-checkpoint/bin/python -m pip install --quiet --disable-pip-version-check metaflow metaflow-checkpoint xgboost-cpu scikit-learn
	@touch $@

$(VENV)/.bench: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --editable '.[bench]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'zipnn>=0.5,<1' || \
	    echo "ZipNN cannot be built here (it needs a C compiler): the comparison is made without it"
	@touch $@

# torch by its very version: the file for processors alone, where there is one
$(VENV)/.frameworks: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --editable '.[frameworks]' 'torch==2.13.0'
	@touch $@

# LLaMA-Factory wants older packages: an environment of its own. Its torchvision and the compiled part of torchaudio are for GPUs, and cannot be loaded without
$(VENV)/.examples: $(VENV)/.frameworks
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --editable '.[examples]' 'torch==2.13.0'
	$(BIN)/python -m venv $(VENV)/llamafactory
	$(VENV)/llamafactory/bin/python -m pip install --quiet --disable-pip-version-check 'llamafactory==0.9.5' 'torch==2.13.0'
	$(VENV)/llamafactory/bin/python -m pip uninstall --quiet --yes torchvision
	rm -f $(VENV)/llamafactory/lib/python3*/site-packages/torchaudio/lib/*.so
	@touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --editable '.[test,dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/bin/python:
	@scripts/system-packages demo
	"$$(scripts/python)" -m venv $(VENV)

clean:
	rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
