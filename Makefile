# moonrise. `make test` and `make demo` do all the set-up by themselves; BUILD=DIR builds elsewhere.

BUILD     ?= build
PREFIX    ?= /usr/local
# The gp commands' names are links. So that they can live beside a real Greenplum's, GP_PREFIX=DIR
# puts them elsewhere, and NAME_PREFIX=mr- names them mr-gpstate and so on.
GP_PREFIX ?= $(PREFIX)
NAME_PREFIX ?=
RUN_USER  ?= postgres
SAN       ?=
WARN      := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wundef -Werror
CFLAGS    ?= -O2 -g
INCLUDES  := -Iinclude $(shell pkg-config --cflags luajit libpq 2>/dev/null)
override CFLAGS += -std=c11 -D_GNU_SOURCE -fPIC -fvisibility=hidden -pthread $(WARN) $(SAN) \
    $(INCLUDES) -DMOONRISE_PREFIX='"$(PREFIX)"' -DMOONRISE_NAME_PREFIX='"$(NAME_PREFIX)gp"' -MMD -MP
override LDFLAGS += -pthread $(SAN)
LIBS      := -lpq -lcrypto -luv -ljansson -lxxhash -lzstd -llz4 -lz -lssh

FOLDERS   := base loop pg wal conn stream wire patch agent probe
SRC       := $(wildcard $(FOLDERS:%=engine/%/*.c))
OBJ       := $(SRC:%.c=$(BUILD)/obj/%.o)
LUAOBJ    := $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard engine/lua/*.c))
CLIOBJ    := $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard engine/cli/*.c))
BENCH     := $(patsubst tests/bench/%.c,$(BUILD)/bench/%,$(wildcard tests/bench/*.c))
UNITS     := $(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(wildcard tests/unit/*.c))
PACKAGES  := gcc libc6-dev pkg-config libpq-dev libssl-dev libuv1-dev libluajit-5.1-dev \
    libjansson-dev libssh-dev libxxhash-dev libzstd-dev liblz4-dev zlib1g-dev libcmocka-dev luajit \
    lua-busted lua-check lua-dkjson clang-format postgresql postgresql-contrib procps iproute2 \
    rsync openssl
# Nobody who only looks at the demo gets a server that others can log in to.
TEST_PACKAGES := openssh-server openssh-client libnss-wrapper
WANTED    = $(PACKAGES)
GP        := state recoverseg start stop initstandby activatestandby addmirrors movemirrors
# Only of commands that are there.
GPLINKS   := $(patsubst scripts/%.lua,$(NAME_PREFIX)gp%,$(wildcard $(GP:%=scripts/%.lua)))
GPBIN     := $(DESTDIR)$(GP_PREFIX)/bin
TARGET    := $(PREFIX)/bin/moonrise
SHARE     := $(DESTDIR)$(PREFIX)/share/moonrise
UNIT      := moonrise-watch@.service
UNITS_DIR := $(DESTDIR)$(PREFIX)/lib/systemd/system
ROOT_DEMO := /var/lib/moonrise-demo

.PHONY: all deps units benches test campaign demo demo-clean bench lint format asan tsan \
    build-asan build-tsan install uninstall clean FORCE
.SECONDARY:

all: $(BUILD)/moonrise $(BUILD)/moonrise.so $(BUILD)/$(UNIT)

# Installs what is missing and touches nothing that is there.
deps:
	@command -v dpkg-query >/dev/null || exit 0; \
	have=" $$(dpkg-query -W -f '$${Package}:$${db:Status-Status} ' $(WANTED) 2>/dev/null)"; \
	for p in $(WANTED); do \
	    case "$$have" in *" $$p:installed "*) ;; *) missing="$$missing $$p" ;; esac; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	[ "$$(id -u)" = 0 ] && sudo= || sudo=sudo; \
	echo "installing:$$missing" && $$sudo apt-get update -q && \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
	    --no-upgrade $$missing </dev/null || { \
	    echo "These packages are missing and could not be installed. Somebody who is root can:"; \
	    echo "    apt-get install --no-install-recommends$$missing"; exit 1; } >&2

# What the user may choose; when it changes, all is built again.
$(BUILD)/settings: export TEXT = $(CC) $(CFLAGS) $(LDFLAGS) $(RUN_USER)
$(BUILD)/settings: FORCE
	@mkdir -p $(@D); echo "$$TEXT" | cmp -s - $@ || echo "$$TEXT" >$@

$(BUILD)/obj/%.o: %.c $(BUILD)/settings
	@mkdir -p $(@D); echo "$(CC) $<"
	@$(CC) $(CFLAGS) -c $< -o $@

# An archive, so that a unit links (and waits for) only what it uses.
$(BUILD)/libmoonrise.a: $(OBJ)
	@echo "ar $@"; rm -f $@ && ar rcs $@ $^

$(BUILD)/moonrise: $(CLIOBJ) $(LUAOBJ) $(BUILD)/libmoonrise.a
	@echo "$(CC) -o $@"
	@$(CC) $(LDFLAGS) -rdynamic $^ -o $@ $(LIBS) -lluajit-5.1 -lm -ldl

# For programs that bring their own LuaJIT (busted): nothing of Lua is linked in.
$(BUILD)/moonrise.so: $(LUAOBJ) $(OBJ)
	@echo "$(CC) -o $@"
	@$(CC) $(LDFLAGS) -shared $^ -o $@ $(LIBS)

$(BUILD)/bench/%: $(BUILD)/obj/tests/bench/%.o $(BUILD)/libmoonrise.a
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) $^ -o $@ $(LIBS)

$(BUILD)/unit/%: $(BUILD)/obj/tests/unit/%.o $(BUILD)/libmoonrise.a
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) $^ -o $@ $(LIBS) -lcmocka

units: $(UNITS)
benches: $(BENCH)

build-asan:
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/asan SAN="-fsanitize=address,undefined \
	    -fno-sanitize-recover=all -fno-omit-frame-pointer" all units
build-tsan:
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/tsan SAN=-fsanitize=thread all units

# The tools may have come with deps only now, and pkg-config is asked while this file is read: so
# what builds after deps is another make, here and in tests/run.
lint: suites = lint
asan: suites = unit-asan spec-asan
tsan: suites = unit-tsan cluster-tsan
campaign: export MOONRISE_CAMPAIGN = 1
test lint asan tsan campaign bench: WANTED = $(PACKAGES) $(TEST_PACKAGES)
test lint asan tsan campaign: deps
	@BUILD=$(BUILD) MAKE="$(MAKE)" tests/run -b $(suites)

bench: deps
	@$(MAKE) --no-print-directory -j$$(nproc) BUILD=$(BUILD) all benches
	@BUILD=$(BUILD) tests/bench/run $(NAME)
demo: deps
	@$(MAKE) --no-print-directory -j$$(nproc) BUILD=$(BUILD) all
	@if [ "$$(id -u)" = 0 ] && [ -e $(ROOT_DEMO) ]; then \
	    echo "$(ROOT_DEMO) is there already: make demo-clean removes an earlier demo" >&2; exit 1; fi
	@BUILD=$(BUILD) tests/lib/as_user $(ROOT_DEMO) sh -c 'exec $$BUILD/moonrise demo'
# Root's demo is removed as the user whom it was made for, whoever calls sudo this time.
demo-clean: all
	@if [ "$$(id -u)" != 0 ]; then $(BUILD)/moonrise demo --clean; \
	    [ ! -e $(ROOT_DEMO) ] || echo "The one that root made stays: sudo make demo-clean"; \
	elif [ ! -e $(ROOT_DEMO) ]; then echo "There is no demo that root made"; \
	else MOONRISE_USER=$$(stat -c %U $(ROOT_DEMO)/home 2>/dev/null) BUILD=$(BUILD) \
	    tests/lib/as_user $(ROOT_DEMO) sh -c 'exec $$BUILD/moonrise demo --clean' && \
	    rm -rf $(ROOT_DEMO); fi

format:
	clang-format -i $$(find engine include tests -name '*.[ch]')

$(BUILD)/$(UNIT): engine/cli/$(UNIT) $(BUILD)/settings
	sed 's|@PREFIX@|$(PREFIX)|; s|@RUN_USER@|$(RUN_USER)|' $< >$@

# A program of these names that is not ours is neither replaced nor removed.
install: all
	@for name in $(GPLINKS); do [ ! -e $(GPBIN)/$$name ] || \
	    [ "$$(readlink $(GPBIN)/$$name)" = $(TARGET) ] || { \
	    echo "$(GPBIN)/$$name is there already; see GP_PREFIX and NAME_PREFIX" >&2; exit 1; }; done
	install -D -m 755 $(BUILD)/moonrise $(DESTDIR)$(TARGET)
	install -D -m 644 $(BUILD)/$(UNIT) $(UNITS_DIR)/$(UNIT)
	rm -rf $(SHARE)
	find scripts policies -type f -exec install -D -m 644 {} $(SHARE)/{} \;
	install -d $(GPBIN)
	for name in $(GPLINKS); do ln -sf $(TARGET) $(GPBIN)/$$name; done

uninstall:
	rm -rf $(DESTDIR)$(TARGET) $(SHARE) $(UNITS_DIR)/$(UNIT)
	for link in $(GPBIN)/$(NAME_PREFIX)gp*; do \
	    [ "$$(readlink $$link)" != $(TARGET) ] || rm -f $$link; done
	rmdir $(UNITS_DIR) $(dir $(UNITS_DIR)) 2>/dev/null || :

clean:
	rm -rf $(BUILD)

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
