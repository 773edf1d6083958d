--- Which settings of a running instance an adoption changes, and when each takes effect.

local adopt_settings = require("lib.adopt_settings")

local copy = require("tests.lib.copy")

local function setting(value, more)
    return copy({ setting = value, shown = value, kind = "string", context = "sighup",
        source = "default" }, more)
end

local function whole(value, more)
    return copy(setting(value, { kind = "integer", context = "postmaster" }), more)
end

-- As a fresh server has them, but for `changed`.
local function facts(changed, more)
    local now = {
        wal_level = setting("replica", { kind = "enum", context = "postmaster" }),
        max_wal_senders = whole("10"), max_replication_slots = whole("10"),
        max_connections = whole("100"), max_worker_processes = whole("8"),
        max_prepared_transactions = whole("0"), max_locks_per_transaction = whole("64"),
        full_page_writes = setting("on", { kind = "bool" }),
        hot_standby = setting("on", { kind = "bool", context = "postmaster" }),
        wal_retrieve_retry_interval = whole("5000", { unit = "ms", context = "sighup" }),
        max_slot_wal_keep_size = whole("-1", { unit = "MB", context = "sighup" }),
        shared_buffers = whole("16384", { unit = "8kB" }),
        block_size = whole("8192", { context = "internal" }),
        port = whole("6000"),
        listen_addresses = setting("*", { context = "postmaster" }),
        unix_socket_directories = setting("/tmp", { context = "postmaster" }),
    }
    return copy({ settings = copy(now, changed), replicas = {}, slots = {} }, more)
end

local INST = { dbid = 2, port = 6000, address = "127.0.0.1", datadir = "/data/p" }

local function wanted(of, settings, primary)
    return adopt_settings.wanted({ pg = { settings = settings or {} } }, INST, of,
        { room = { free_bytes = 2 ^ 30, instances = 2 }, primary = primary })
end

local function changed(of, settings, primary)
    local list, problems = adopt_settings.changes(of, wanted(of, settings, primary))
    local text = {}
    for i, change in ipairs(list) do
        text[i] = ("%s %s>%s %s"):format(change.name, change.old, change.new, change.when)
    end
    return text, problems
end

local PLACE = { "listen_addresses *> next start",
    "max_slot_wal_keep_size -1>256MB reload", "unix_socket_directories /tmp>/data/p next start",
    "wal_retrieve_retry_interval 5000>500ms reload" }

local function with(...)
    local list = { ... }
    for _, text in ipairs(PLACE) do
        table.insert(list, text)
    end
    table.sort(list)
    return list
end

describe("settings of an adopted instance", function()
    it("compares values whatever unit they are written in", function()
        local buffers = { setting = "16384", unit = "8kB", kind = "integer" }
        assert.is_true(adopt_settings.is(buffers, "128MB"))
        assert.is_true(adopt_settings.is(buffers, 16384))
        assert.is_false(adopt_settings.is(buffers, "256MB"))
        assert.is_false(adopt_settings.is(buffers, "as much as there is"))
        local delay = { setting = "300", unit = "s", kind = "integer" }
        assert.is_true(adopt_settings.is(delay, "5min"))
        assert.is_true(adopt_settings.is({ setting = "on", kind = "bool" }, "Yes"))
        assert.is_false(adopt_settings.is({ setting = "on", kind = "bool" }, false))
        assert.is_true(adopt_settings.is({ setting = "replica", kind = "enum" }, "REPLICA"))
    end)

    it("changes nothing of a fresh server that needs a restart", function()
        assert.same(PLACE, changed(facts()))
    end)

    it("asks for a restart where nothing else helps", function()
        assert.same(with("wal_level minimal>replica restart", "max_wal_senders 0>10 restart"),
            changed(facts({ max_wal_senders = whole("0"), wal_level =
                setting("minimal", { kind = "enum", context = "postmaster" }) })))
        assert.same(with("shared_buffers 16384>1GB restart"),
            changed(facts(), { shared_buffers = "1GB" }))
        assert.same(PLACE, (changed(facts(), { shared_buffers = "128MB" })))
    end)

    it("leaves room for what others use, and their slots unbounded", function()
        local others = { replicas = { {}, {}, {}, {}, {}, {}, {}, {} }, slots = { {} } }
        local list = changed(facts({}, others))
        assert.equal("max_wal_senders 10>11 restart", list[2])
        assert.is_nil(wanted(facts({}, others)).max_slot_wal_keep_size)
    end)

    it("keeps what stands on the command line, but not what moonrise needs otherwise", function()
        local line = { source = "command line", context = "postmaster" }
        local own = wanted(facts({ shared_buffers = whole("1024", { source = "command line",
            shown = "8MB" }), port = whole("6000", line), data_directory = setting("/x", line),
            wal_level = setting("minimal", { kind = "enum", source = "command line" }) }))
        assert.equal("8MB", own.shared_buffers)
        assert.equal("replica", own.wal_level)
        assert.is_nil(own.data_directory)
    end)

    it("knows what a server has in no file", function()
        local line = { source = "command line", shown = "8MB" }
        assert.same({ port = "6001", work_mem = "8MB" }, adopt_settings.command_line(facts({
            port = whole("6001", { source = "environment variable" }),
            client_encoding = setting("UTF8", { source = "environment variable" }),
            work_mem = whole("8192", line), data_directory = setting("/x", line) })))
    end)

    it("gives a standby as much as its primary has, or will have", function()
        local primary = { facts = facts({ max_connections = whole("200") }),
            wanted = { max_wal_senders = 12 } }
        assert.same(with("max_connections 100>200 restart", "max_wal_senders 10>12 restart"),
            changed(facts(), nil, primary))
    end)

    it("says what no server could be given", function()
        local _, problems = changed(facts(), { block_size = 4096, no_such_thing = 1 })
        assert.same({ "block_size is 8192 and cannot be changed",
            "this server knows no setting no_such_thing" }, problems)
    end)
end)
