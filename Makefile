# moonrise. `make test` and `make demo` do all the set-up by themselves; BUILD=DIR builds elsewhere.

BUILD     ?= build
PREFIX    ?= /usr/local
# The gp commands' names are links; GP_PREFIX=DIR keeps them from hiding a real Greenplum's.
GP_PREFIX ?= $(PREFIX)
RUN_USER  ?= postgres
SAN       ?=
WARN      := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wundef -Werror
CFLAGS    ?= -O2 -g
INCLUDES  := -Iinclude $(shell pkg-config --cflags luajit libpq 2>/dev/null)
override CFLAGS += -std=c11 -D_GNU_SOURCE -fPIC -fvisibility=hidden -pthread $(WARN) $(SAN) \
    $(INCLUDES) -DMOONRISE_PREFIX='"$(PREFIX)"' -MMD -MP
override LDFLAGS += -pthread $(SAN)
LIBS      := -lpq -luv -ljansson -lxxhash -lzstd -llz4

FOLDERS   := base loop pg wal conn stream wire patch agent probe
SRC       := $(wildcard $(FOLDERS:%=engine/%/*.c))
OBJ       := $(SRC:%.c=$(BUILD)/obj/%.o)
LUAOBJ    := $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard engine/lua/*.c))
CLIOBJ    := $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard engine/cli/*.c))
BENCH     := $(patsubst tests/bench/%.c,$(BUILD)/bench/%,$(wildcard tests/bench/*.c))
UNITS     := $(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(wildcard tests/unit/*.c))
PACKAGES  := gcc libc6-dev pkg-config libpq-dev libuv1-dev libluajit-5.1-dev libjansson-dev \
    libxxhash-dev libzstd-dev liblz4-dev libcmocka-dev luajit lua-busted lua-check lua-dkjson \
    clang-format postgresql postgresql-contrib rsync
GP        := state recoverseg start stop initstandby activatestandby addmirrors movemirrors
SHARE     := $(DESTDIR)$(PREFIX)/share/moonrise
UNIT      := moonrise-watch@.service
ROOT_DEMO := /var/lib/moonrise-demo

.PHONY: all deps units benches test campaign demo demo-clean bench lint format asan tsan \
    build-asan build-tsan install uninstall clean FORCE
.SECONDARY:

all: $(BUILD)/moonrise $(BUILD)/moonrise.so $(BUILD)/$(UNIT)

# Installs what is missing and touches nothing that is there.
deps:
	@command -v dpkg-query >/dev/null || exit 0; \
	have=" $$(dpkg-query -W -f '$${Package}:$${db:Status-Status} ' $(PACKAGES) 2>/dev/null)"; \
	for p in $(PACKAGES); do \
	    case "$$have" in *" $$p:installed "*) ;; *) missing="$$missing $$p" ;; esac; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	[ "$$(id -u)" = 0 ] && sudo= || sudo=sudo; \
	echo "installing:$$missing" && $$sudo apt-get update -q && \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
	    --no-upgrade $$missing </dev/null

# What the user may choose; when it changes, all is built again.
$(BUILD)/settings: export TEXT = $(CC) $(CFLAGS) $(LDFLAGS) $(PREFIX) $(RUN_USER)
$(BUILD)/settings: FORCE
	@mkdir -p $(@D); echo "$$TEXT" | cmp -s - $@ || echo "$$TEXT" >$@

$(BUILD)/obj/%.o: %.c $(BUILD)/settings
	@mkdir -p $(@D); echo "$(CC) $<"
	@$(CC) $(CFLAGS) -c $< -o $@

# An archive, so that a unit links (and waits for) only what it uses.
$(BUILD)/libmoonrise.a: $(OBJ)
	rm -f $@ && ar rcs $@ $^

$(BUILD)/moonrise: $(CLIOBJ) $(LUAOBJ) $(BUILD)/libmoonrise.a
	$(CC) $(LDFLAGS) -rdynamic $^ -o $@ $(LIBS) -lluajit-5.1 -lm -ldl

# For programs that bring their own LuaJIT (busted): nothing of Lua is linked in.
$(BUILD)/moonrise.so: $(LUAOBJ) $(OBJ)
	$(CC) $(LDFLAGS) -shared $^ -o $@ $(LIBS)

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
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/tsan SAN=-fsanitize=thread units

# The tools may have come with deps only now, and pkg-config is asked while this file is read: so
# what builds after deps is another make, here and in tests/run.
lint: suites = lint
asan: suites = unit-asan spec-asan
tsan: suites = unit-tsan
campaign: export MOONRISE_CAMPAIGN = 1
test lint asan tsan campaign: deps
	@BUILD=$(BUILD) MAKE="$(MAKE)" tests/run -b $(suites)

bench: deps
	@$(MAKE) --no-print-directory -j$$(nproc) BUILD=$(BUILD) all benches
	@BUILD=$(BUILD) tests/bench/run $(NAME)
demo: deps
	@$(MAKE) --no-print-directory -j$$(nproc) BUILD=$(BUILD) all
	@BUILD=$(BUILD) tests/lib/as_user $(ROOT_DEMO) sh -c 'exec $$BUILD/moonrise demo'
demo-clean: all
	@BUILD=$(BUILD) tests/lib/as_user $(ROOT_DEMO) sh -c 'exec $$BUILD/moonrise demo --clean'
	@[ ! -d $(ROOT_DEMO) ] || rm -rf $(ROOT_DEMO)

format:
	clang-format -i $$(find engine include tests -name '*.[ch]')

$(BUILD)/$(UNIT): engine/cli/$(UNIT) $(BUILD)/settings
	sed 's|@PREFIX@|$(PREFIX)|; s|@RUN_USER@|$(RUN_USER)|' $< >$@

install: all
	install -D -m 755 $(BUILD)/moonrise $(DESTDIR)$(PREFIX)/bin/moonrise
	install -D -m 644 $(BUILD)/$(UNIT) $(DESTDIR)$(PREFIX)/lib/systemd/system/$(UNIT)
	mkdir -p $(SHARE) $(DESTDIR)$(GP_PREFIX)/bin
	cp -R scripts policies $(SHARE)
	for name in $(GP); do ln -sf $(PREFIX)/bin/moonrise $(DESTDIR)$(GP_PREFIX)/bin/gp$$name; done

uninstall:
	rm -rf $(DESTDIR)$(PREFIX)/bin/moonrise $(SHARE) $(DESTDIR)$(PREFIX)/lib/systemd/system/$(UNIT)
	rm -f $(GP:%=$(DESTDIR)$(GP_PREFIX)/bin/gp%)

clean:
	rm -rf $(BUILD)

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
