local cluster = require("lib.cluster")
local config = require("lib.config")
local home = require("lib.home")
local instance = require("lib.instance")
local settings = require("lib.settings")

local function row(dbid, content, role)
    return { dbid = dbid, content = content, role = role, hostname = "h" .. dbid,
             port = 6000 + dbid, address = "10.0.0." .. dbid, datadir = "/data/" .. dbid }
end

local rows = { row(1, -1, "p"), row(5, 1, "m"), row(2, 0, "p"), row(3, 1, "p"), row(4, 0, "m") }

describe("cluster", function()
    it("pairs instances by content, in order", function()
        local list = cluster.pairs(rows)
        assert.same({ -1, 0, 1 }, { list[1].content, list[2].content, list[3].content })
        assert.is_nil(list[1].mirror)
        assert.equal(4, list[2].mirror.dbid)
        assert.equal(5, cluster.pair(rows, 1).mirror.dbid)
        assert.is_nil(cluster.pair(rows, 2))
    end)

    it("names an instance by all that tells where it is", function()
        assert.equal("dbid 4 (content 0, h4:6004, /data/4)", cluster.name(cluster.find(rows, 4)))
        assert.is_nil(cluster.find(rows, 9))
    end)
end)

describe("instance", function()
    it("keeps its socket in its directory unless the path is too long", function()
        assert.equal("/data/1", instance.socket_dir(rows[1]))
        local long = { datadir = "/data" .. ("/deep"):rep(16) }
        assert.matches("^/tmp/moonrise%-%d+/%x+$", instance.socket_dir(long))
        assert.equal(instance.socket_dir(long), instance.socket_dir({ datadir = long.datadir }))
    end)

    it("names slots and streams", function()
        assert.equal("mr_slot_4", instance.slot_name(rows[5]))
        assert.equal("mr_0_4", instance.stream_name(rows[5]))
        assert.equal("mr_c_6_9", instance.stream_name({ dbid = 6, content = -1 }, 9))
        assert.equal("mr_0_4_17", instance.stream_name(rows[5], 17))
    end)

    it("makes a mirror of a primary", function()
        local env = { user = "moonrise", passfile = "/home/o'neil/passfile" }
        local spec = instance.standby_spec(env, rows[5], rows[3])
        assert.equal("mr_slot_4", spec.slot)
        assert.equal("10.0.0.4", spec.listen)
        assert.equal(6004, spec.settings.port)
        assert.is_false(spec.settings.synchronous_standby_names)
        local conninfo = spec.settings.primary_conninfo
        assert.matches("host='10.0.0.2' port=6002 user='moonrise'", conninfo, 1, true)
        assert.matches([[passfile='/home/o\'neil/passfile']], conninfo, 1, true)
        assert.matches("application_name='mr_0_4'", conninfo, 1, true)
    end)

    it("is only started as a mirror when nothing speaks against it", function()
        local function refusal(change)
            local word = { kind = "datadir", standby_signal = true,
                           control = { aside = false, newest_timeline = 2,
                                       state = "shut down in recovery" },
                           epoch = { valid = true, epoch = 8, marked = false } }
            change(word)
            return instance.start_refusal(word, { role_epoch = 7, timeline = 2 })
        end
        assert.is_nil(refusal(function() end))
        assert.is_nil(refusal(function(w) w.control.state = "in archive recovery" end))
        -- What a handover has shut down: its successor has its last checkpoint.
        assert.is_nil(refusal(function(w)
            w.control.state, w.same_history = "shut down", true
        end))
        local changes = {
            function(w) w.kind = "missing" end, function(w) w.control = nil end,
            function(w) w.control.aside = true end, function(w) w.epoch = nil end,
            function(w) w.epoch.valid = false end, function(w) w.epoch.marked = true end,
            function(w) w.epoch.epoch = 7 end, function(w) w.standby_signal = false end,
            function(w) w.patch = {} end, function(w) w.control.newest_timeline = 3 end,
            function(w) w.control.newest_timeline = nil end,
            function(w) w.same_history = false end, function(w) w.control.state = nil end,
            function(w) w.control.state = "shut down" end,
            function(w) w.control.state, w.same_history = "in production", true end,
        }
        for i, change in ipairs(changes) do
            assert.is_string(refusal(change), "change " .. i)
        end
        -- Whatever state it was left in, and whether or not its primary still has that checkpoint.
        assert.matches("promoted by somebody else", refusal(function(w)
            w.control.newest_timeline, w.control.state = 3, "shut down"
        end))
    end)

    it("is an older copy of itself when its mirror has seen and has more, in sync", function()
        local function judged(change)
            local word = { control = { newest_timeline = 2, state = "shut down in recovery" },
                           epoch = { valid = true, epoch = 12, marked = false },
                           same_history = false,
                           primary = { mode = "s", epoch = 11, ends_before = true } }
            local pair = { role_epoch = 7, timeline = 2, armed_name = "mr_0_4_9" }
            change(word, pair)
            return instance.older_copy(word, pair), instance.other_history(word, pair)
        end
        local why, parted = judged(function() end)
        assert.are.equal("its WAL ends before what its mirror has", why)
        assert.is_nil(parted)
        assert.are.equal("its WAL is not what its mirror has", (judged(function(w)
            w.primary.ends_before = false
        end)))
        -- Whatever its WAL says: it was copied before it waited for its mirror.
        assert.matches("since epoch 9", (judged(function(w)
            w.primary.epoch, w.primary.ends_before, w.same_history = 8, false, true
        end)), 1, true)
        local changes = {
            function(w) w.primary = nil end, function(w) w.primary.mode = "n" end,
            function(w) w.primary.epoch = nil end, function(w) w.primary.epoch = 12 end,
            function(w) w.epoch.valid = false end, function(w) w.epoch.marked = true end,
            function(w) w.control.newest_timeline = 3 end,
            function(w) w.control.newest_timeline = nil end,
            function(w) w.control.state = "shut down" end,
            function(w) w.control.state = "in production" end,
            function(w) w.same_history, w.primary.ends_before = true, false end,
            function(w) w.same_history, w.primary.ends_before = nil, false end,
        }
        for i, change in ipairs(changes) do
            assert.is_nil((judged(change)), "change " .. i)
        end
        -- One that was never known to be asked of its primary is what it was.
        assert.matches("run as a primary", select(2, judged(changes[1])))
    end)
end)

describe("settings", function()
    local conf = { pg = { settings = { shared_buffers = "1GB", wal_level = "logical" } }, hba = {
        "host all all 10.0.0.0/8 scram-sha-256" } }

    it("puts the cluster's over the defaults and the instance's over both", function()
        local made = settings.instance(conf, rows[3], { free_bytes = 8 * 2 ^ 30, instances = 4 })
        assert.equal("logical", made.wal_level)
        assert.equal("1GB", made.shared_buffers)
        assert.equal("", made.listen_addresses)
        assert.equal(6002, made.port)
        assert.equal("1024MB", made.max_slot_wal_keep_size)
    end)

    it("lets in as few as it can", function()
        local lines = settings.hba(conf, rows, "gpadmin")
        assert.same({ 'local all "gpadmin" peer', "local all,replication moonrise scram-sha-256",
            "host all,replication moonrise 10.0.0.1/32 scram-sha-256" },
            { lines[1], lines[2], lines[3] })
        assert.equal(conf.hba[1], lines[#lines])
        assert.equal(8, #lines)
        for i = 1, #lines - 1 do
            assert.is_true(settings.is_own_hba(lines[i], "gpadmin"), lines[i])
        end
        for _, line in ipairs({ lines[#lines], "local all all peer", "local all gpadmin peer",
                                'local all "other" peer',
                                "host all,replication moonrise 10.0.0.1/32 trust",
                                "host all,replication moonrise,all 10.0.0.1/32 scram-sha-256",
                                "host sales moonrise 10.0.0.1/32 scram-sha-256",
                                "hostnossl all,replication moonrise ::1/128 scram-sha-256",
                                "local all,replication moonrise ::1/128 scram-sha-256" }) do
            assert.is_false(settings.is_own_hba(line, "gpadmin"), line)
        end
    end)

    it("lets the hosts of its pair and of the coordinators into a segment", function()
        local lines = settings.hba(conf, rows, "gpadmin", rows[3])
        assert.same({ 'local all "gpadmin" peer',
            "local postgres,replication moonrise scram-sha-256",
            "host postgres,replication moonrise 10.0.0.1/32 scram-sha-256",
            "host postgres,replication moonrise 10.0.0.2/32 scram-sha-256",
            "host postgres,replication moonrise 10.0.0.4/32 scram-sha-256",
            conf.hba[1] }, lines)
        for i = 1, #lines - 1 do
            assert.is_true(settings.is_own_hba(lines[i], "gpadmin"), lines[i])
        end
    end)

    it("asks for TLS when the cluster does", function()
        local secure = { pg = conf.pg, hba = {}, tls = { cert = "/c", key = "/k" } }
        assert.matches("^hostssl ", settings.hba(secure, rows, "gpadmin")[3])
        local made = settings.instance(secure, rows[3], { instances = 1 })
        assert.same({ true, "/c", "/k" }, { made.ssl, made.ssl_cert_file, made.ssl_key_file })
        assert.same({ sslmode = "require", channel_binding = "require" }, config.tls(secure))
        secure.tls.ca = "/a"
        assert.same({ sslmode = "verify-full", sslrootcert = "/a", channel_binding = "require" },
            config.tls(secure))
        secure.tls.verify = "ca"
        local env = config.tls(secure)
        env.user, env.passfile = "moonrise", "/p"
        assert.matches("sslmode=verify-ca sslrootcert='/a' channel_binding=require",
            instance.primary_conninfo(env, rows[5], rows[3]), 1, true)
        assert.equal("require", instance.conninfo(env, rows[3]).channel_binding)
    end)

    it("trusts no search_path of a database", function()
        local options = instance.conninfo({}, rows[3], { options = "-c lock_timeout=1" }).options
        assert.equal("-c search_path=pg_catalog -c lock_timeout=1", options)
        assert.equal("-c search_path=pg_catalog", instance.conninfo({}, rows[3]).options)
    end)
end)

describe("home", function()
    it("reads connection strings of keywords", function()
        assert.same({ host = "a,b", port = "1", user = "o'neil", x = "" }, home.parse_conninfo(
            [[host=a,b  port = 1 user='o\'neil' x='']]))
        local options, err = home.parse_conninfo("host=a nonsense")
        assert.is_nil(options)
        assert.matches("cannot read 'nonsense'", err.message, 1, true)
        assert.is_nil((home.parse_conninfo("user='never ends")))
        assert.is_nil((home.parse_conninfo("postgresql://cdw/moonrise")))
    end)

    it("says what is missing where there is no cluster", function()
        local env, err = home.read("/nowhere/at/all/")
        assert.is_nil(env)
        assert.equal("there is no directory /nowhere/at/all", err.message)
        env, err = home.read("/")
        assert.is_nil(env)
        assert.matches("/ is not the data directory of a coordinator", err.message, 1, true)
    end)
end)
