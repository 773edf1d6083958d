--- The views of `moonrise state` against Greenplum's own output (tests/spec/samples: the padding of
--- columns is broken there, so runs of blanks count as one), and what the views do where Greenplum
--- has no sample.
local details = require("lib.state.details")
local errors = require("lib.state.errors")
local judge = require("lib.state.judge")
local mirrors = require("lib.state.mirrors")
local mr = require("moonrise")
local places = require("lib.state.places")
local quick = require("lib.state.quick")
local report = require("lib.state.report")
local sheet = require("lib.state.sheet")
local standby = require("lib.state.standby")
local summary = require("lib.state.summary")

local samples = require("tests.lib.state_facts")

local PREFIX = { info = "[INFO]:-", warn = "[WARNING]:-" }

local function text_of(lines)
    local out = {}
    for i, line in ipairs(lines) do
        out[i] = PREFIX[line.level] .. line.text
    end
    return table.concat(out, "\n") .. "\n"
end

local function normal(text)
    return (text:gsub("[ \t]+", " "):gsub(" \n", "\n"):gsub("%]:%- ", "]:-"))
end

-- The sample without the lines that the command prints before its view.
local function sample(name)
    local file = assert(io.open("tests/spec/samples/" .. name .. ".txt"))
    local text = file:read("*a")
    file:close()
    for _, line in ipairs({ "Starting [^\n]*", "Obtaining [^\n]*", "Gathering [^\n]*",
        "pg_stat_replication shows [^\n]*" }) do
        text = text:gsub("^%[%u+%]:%-" .. line .. "\n", "")
    end
    return normal(text)
end

-- Compares line by line: a failure names the first line that differs.
local function assert_sample(name, lines)
    local got = normal(text_of(lines)):gmatch("[^\n]+")
    for line in sample(name):gmatch("[^\n]+") do
        assert.equal(line, got())
    end
    assert.is_nil(got())
end

local healthy = samples.healthy
local failed_over = samples.failed_over

local function kinds(facts)
    local list = {}
    for _, problem in ipairs(judge.problems(facts)) do
        table.insert(list, ("%s %d"):format(problem.kind, problem.content))
    end
    return list
end

local VIEWS = { b = summary.lines, c = mirrors.pairs, e = errors.lines, f = standby.lines,
    i = places.versions, m = mirrors.list, p = places.ports, Q = quick.lines, s = details.lines }

describe("state, healthy", function()
    for letter, view in pairs(VIEWS) do
        it("-" .. letter .. " is as gpstate's", function()
            assert_sample("healthy-" .. letter, view(healthy()))
        end)
    end

    it("finds nothing wrong", function()
        assert.same({}, judge.problems(healthy()))
    end)
end)

describe("state, a primary failed over", function()
    for _, letter in ipairs({ "b", "c", "e", "m", "Q", "s" }) do
        it("-" .. letter .. " is as gpstate's", function()
            assert_sample("primary-0-failed-over-" .. letter, VIEWS[letter](failed_over()))
        end)
    end

    it("finds what is wrong", function()
        assert.same({ "switched 0", "down 0", "unsynchronized 0" }, kinds(failed_over()))
    end)
end)

describe("a sheet", function()
    it("pads columns and puts warnings under the rest", function()
        local out = sheet.new()
        out:rule(4)
        out:row({ "a heading that is longer than any label" })
        out:pair("x", 1)
        out:pair("longer", "long value")
        out:pair("bad", 2, true)
        assert.same({
            "[INFO]:-----",
            "[INFO]:-   a heading that is longer than any label",
            "[INFO]:-   x        = 1",
            "[INFO]:-   longer   = long value",
            "[WARNING]:-bad      = 2            <<<<<<<<", "" },
            { text_of(out:lines()):match(("([^\n]*)\n"):rep(5) .. "(.*)") })
    end)
end)

describe("a pair", function()
    local facts, pair

    before_each(function()
        facts = healthy()
        pair = { content = 0, primary = facts.instances[3], mirror = facts.instances[4] }
    end)

    local function mode(value)
        pair.primary.mode, pair.mirror.mode = value, value
    end

    it("that streams and is not in sync resynchronizes", function()
        mode("n")
        assert.equal("Resynchronizing", judge.data_state(facts, pair))
        facts.seen[2].sql.peers[1].state = "catchup"
        assert.equal("Not In Sync", judge.data_state(facts, pair))
    end)

    it("tells how many bytes are left", function()
        mode("n")
        facts.seen[2].sql.write_lsn = 0xC000D70 + 4096
        assert.matches("cdw%s+6002%s+4096%s+cdw%s+6005", text_of(errors.lines(facts)))
    end)

    it("is not safe without its name in synchronous_standby_names", function()
        for _, names in ipairs({ "", "mr_0_55_7", "other", "nobody_3" }) do
            facts.seen[2].sql.sync_names = names
            assert.same({ "not_armed 0" }, kinds(facts), names)
        end
        facts.seen[2].sql.sync_names = "mr_0_5_12"
        assert.same({}, kinds(facts))
        facts.seen[2].sql.sync_names = "FIRST 1 (mr_0_5)"
        assert.same({}, kinds(facts))
    end)

    it("is not safe without its mirror's connection", function()
        facts.seen[2].sql.peers = {}
        assert.same({ "not_streaming 0" }, kinds(facts))
        assert.matches("the mirror is not connected", text_of(errors.lines(facts)))
    end)

    it("is not what a helper that borrows the mirror's name seems to be", function()
        facts.seen[2].sql.peers[1].slot = "somebody_elses"
        assert.is_nil(judge.peer(facts, pair))
        facts.seen[2].sql.peers[1].slot = nil
        assert.is_table(judge.peer(facts, pair))
        facts.seen[2].sql.peers[1].name = "mr_0_55"
        assert.is_nil(judge.peer(facts, pair))
    end)

    it("says why its commits wait though they need not", function()
        mode("n")
        facts.seen[2].sql.sync_names, facts.seen[2].sql.waiting = "", 3
        facts.seen[2].sql.checkpointer = "CheckpointWriteDelay"
        assert.same({ "unsynchronized 0", "waiting 0" }, kinds(facts))
        assert.matches("cdw%s+6002%s+3%s+released; the checkpointer is inside a checkpoint",
            text_of(errors.lines(facts)))
    end)

    it("is named while it has not confirmed its epochs", function()
        facts.unconfirmed = { 0 }
        assert.same({ "unconfirmed 0" }, kinds(facts))
        assert.matches("0%s+cdw%s+6002%s+moonrise confirm 0", text_of(errors.lines(facts)))
    end)

    it("that is the coordinator's is held by its standby without a majority", function()
        for failing, kind in pairs({ "no_record", "no_majority" }) do
            facts.records = { hosts = 3, needed = 2, failing = {} }
            for i = 1, failing do
                facts.records.failing[i] = { host = "sdw" .. i, text = "it is away" }
            end
            assert.are.equal(kind .. " -1", kinds(facts)[failing])
            assert.matches("sdw1%s+it is away", text_of(errors.lines(facts)))
        end
    end)
end)

describe("an instance", function()
    local facts

    before_each(function()
        facts = healthy()
    end)

    local function without_session(code, word)
        facts.seen[2].sql, facts.seen[2].sql_error = nil, { code = code, message = "the reason" }
        for key, value in pairs(word) do
            facts.seen[2].word[key] = value
        end
        return judge.status(facts, facts.instances[3])
    end

    it("that is gone, hangs, starts or is unreachable is told apart", function()
        assert.equal("Process error -- database process may be down",
            without_session("connect", { stopped = true }))
        assert.equal("Process error -- does not answer within its deadline",
            without_session("timeout", { stopped = false }))
        assert.equal("Starting up -- in recovery",
            without_session("sql", { recovery = { pid = 3 } }))
        assert.equal("Down -- data directory missing",
            without_session("connect", { kind = "missing" }))
        assert.equal("Down -- data directory is half-made",
            without_session("connect", { kind = "half-made" }))
        facts.seen[2].word = nil
        assert.equal("Unknown -- host unreachable", judge.status(facts, facts.instances[3]))
    end)

    it("that is gone while the catalog says up is shown, and so is the process", function()
        without_session("connect", { stopped = true, postmaster = nil })
        facts.seen[2].word.postmaster = nil
        assert.same({ "down 0" }, kinds(facts))
        assert.matches("cdw%s+6002%s+Up%s+Process error", text_of(errors.lines(facts)))
        assert.matches("Primary Failed, Mirror Available", text_of(mirrors.pairs(facts)))
        local text = text_of(summary.lines(facts))
        assert.matches("Total primary segment failures %(at coordinator%)%s+= 1%s+<<<<<<<<", text)
        assert.matches("%[WARNING%]:%-Total number of postmaster.pid files missing%s+= 1%s+<", text)
    end)

    it("in the wrong role is not up", function()
        facts.seen[5].sql.in_recovery = false
        assert.same({ "down 0" }, kinds(facts))
        facts.seen[5].sql.in_recovery, facts.seen[2].sql.in_recovery = true, true
        assert.matches("in recovery, not a primary", judge.status(facts, facts.instances[3]))
    end)

    it("that is being recovered is shown with its progress", function()
        facts.instances[4].status = "d"
        facts.instances[3].mode, facts.instances[4].mode = "n", "n"
        facts.seen[5].word.patch = { type = "differential", stage = "copying",
                                     bytes_done = 3 * 1024 ^ 2, bytes_total = 4 * 1024 ^ 2 }
        assert.matches("cdw%s+6005%s+differential%s+copying%s+3072%s+4096%s+75%%",
            text_of(errors.lines(facts)))
        facts.seen[5].word.patch.running = false
        assert.matches("differential%s+interrupted, run it again%s+3072",
            text_of(errors.lines(facts)))
        facts.seen[5].word.patch.running, facts.seen[5].word.patch.bytes_total = true, nil
        assert.matches("copying%s+3072%s+Unknown%s+Unknown", text_of(errors.lines(facts)))
    end)
end)

describe("settings that give less", function()
    it("are an error server-wide and a note elsewhere", function()
        local facts = healthy()
        facts.seen[2].sql.weaker = { { database = "d", value = "off" },
            { role = "r", value = "local" } }
        assert.same({}, judge.problems(facts))
        local text = text_of(errors.lines(facts))
        assert.matches("cdw%s+6002%s+d%s+all%s+off", text)
        assert.matches("cdw%s+6002%s+all%s+r%s+local", text)
        assert.matches("All segments are running normally", text)
        facts.seen[2].sql.sync_commit = "remote_write"
        assert.same({ "weak 0" }, kinds(facts))
        assert.matches("cdw%s+6002%s+remote_write", text_of(errors.lines(facts)))
    end)
end)

describe("a mirror whose replay is paused", function()
    it("is an error, although its pair is in sync", function()
        local facts = healthy()
        facts.seen[5].sql.paused = true
        assert.same({ "paused 0" }, kinds(facts))
        assert.matches("Cannot Be Promoted.*cdw%s+6005%s+its replay is paused",
            text_of(errors.lines(facts)))
    end)
end)

describe("a cluster", function()
    local function without(facts, roles)
        local kept = {}
        for _, inst in ipairs(facts.instances) do
            if not roles(inst) then
                table.insert(kept, inst)
            end
        end
        facts.instances = kept
        for _, inst in ipairs(kept) do
            inst.mode = "n"
        end
        return facts
    end

    it("without mirrors and standby is fine, and says so", function()
        local facts = without(healthy(), function(inst) return inst.role == "m" end)
        assert.same({}, judge.problems(facts))
        assert.matches("Mirrors not configured", text_of(summary.lines(facts)))
        assert.matches("No coordinator standby configured", text_of(summary.lines(facts)))
        assert.equal("[INFO]:-No coordinator standby configured\n", text_of(standby.lines(facts)))
        assert.matches("mirroring is not configured", text_of(mirrors.list(facts)))
        assert.matches("mirroring is not configured", text_of(mirrors.pairs(facts)))
        assert.matches("running normally", text_of(errors.lines(facts)))
        local text = text_of(details.lines(facts))
        assert.not_matches("Mirror status", text)
        assert.not_matches("WARNING", text)
        assert.matches("6004", text_of(places.ports(facts)))
    end)

    it("whose coordinator is down is told from what the standby knows", function()
        local facts = healthy()
        facts.source, facts.coordinator_error = "standby", "connection refused"
        facts.seen[1] = { sql_error = { code = "connect", message = "connection refused" },
                          word = { kind = "datadir", stopped = true } }
        assert.same({ "coordinator -1", "down -1" }, kinds(facts))
        assert.matches("%[WARNING%]:%-Coordinator instance%s+= DOWN", text_of(summary.lines(facts)))
        assert.matches("No entries found", text_of(standby.lines(facts)))
        for _, view in pairs(VIEWS) do
            assert.is_true(#view(facts) > 0)
        end
    end)

    it("that counts as stopped is not fine, though all of it runs", function()
        local facts = healthy()
        facts.cluster.state = "stopped"
        assert.same({ "stopped -1" }, kinds(facts))
        local text = text_of(errors.lines(facts))
        assert.matches("sales%s+stopped%s+moonrise start", text)
        assert.not_matches("running normally", text)
        facts.quick, facts.seen = true, {}
        assert.same({ "stopped -1" }, kinds(facts))
    end)

    it("with a disk that is full, or hangs, names it and why", function()
        local facts = healthy()
        facts.seen[2].disk = { writable = true }
        assert.same({}, kinds(facts))
        facts.seen[2].disk = { writable = false, disk_error = "No space left on device" }
        facts.seen[7].disk_error = { code = "timeout", message = "late" }
        assert.same({ "disk 0", "disk 2" }, kinds(facts))
        local text = text_of(errors.lines(facts))
        assert.matches("cdw%s+6002%s+No space left on device", text)
        assert.matches("cdw%s+%d+%s+nothing is written there", text)
        assert.not_matches("running normally", text)
        -- What the host's word says already is not said twice.
        facts.seen[2].word, facts.seen[7].word.kind = nil, "missing"
        assert.same({}, kinds(facts))
    end)

    it("in a double fault shows both", function()
        local facts = failed_over()
        facts.seen[5] = { sql_error = { code = "connect", message = "refused" },
                          word = { kind = "datadir", stopped = true } }
        local text = text_of(errors.lines(facts))
        assert.matches("cdw%s+6005%s+Up%s+Process error", text)
        assert.matches("cdw%s+6002%s+Down%s+Down in configuration", text)
        assert.matches("Mirror Failed, Primary Failed", text_of(mirrors.pairs(facts)))
    end)

    it("in a double fault tells how far each is, and what promoting it would lose", function()
        local facts = failed_over()
        local function stopped(control)
            control.sysid = "7"
            return { sql_error = { code = "connect", message = "refused" },
                     word = { kind = "datadir", stopped = true, control = control } }
        end
        facts.seen[5] = stopped({ newest_timeline = 2, checkpoint = "0/5000000" })
        facts.seen[2] = stopped({ timeline = 1, min_recovery = "0/4000000" })
        facts.history = { [0] = { since = "2026-01-01 10:00:00 (mirror lost)",
            primary_lsn = 0x6000000 } }
        local text = text_of(errors.lines(facts))
        assert.matches("Double Faults", text)
        assert.matches("cdw%s+6005%s+5%s+Primary%s+2%s+at least 0/5000000%s+No%s+nothing: it is",
            text)
        assert.matches("cdw%s+6002%s+2%s+Mirror%s+1%s+at least 0/4000000%s+No%s+what was committed"
            .. " since 2026%-01%-01 10:00:00 %(mirror lost%); 32.* of WAL are known to be missing",
            text)
        assert.matches("Promoting it would lose%s+= what was committed",
            text_of(details.lines(facts)))
        local problems = report.of(facts).problems
        assert.equal("double_fault", problems[#problems].kind)
        assert.equal(0x2000000, problems[#problems].survivors[2].lost_bytes)
        -- Somebody works on it, the cluster is stopped, or a session of the primary still answers.
        facts.leases = { { content = 0, intent = "start" } }
        assert.not_matches("Double Faults", text_of(errors.lines(facts)))
        facts.leases[1].gone = true
        assert.matches("Double Faults", text_of(errors.lines(facts)))
        facts.cluster.state = "stopped"
        assert.not_matches("Double Faults", text_of(errors.lines(facts)))
        facts.cluster.state, facts.seen[5].sql_error.sqlstate = "running", "57P03"
        assert.not_matches("Double Faults", text_of(errors.lines(facts)))
    end)

    it("of which nobody answers is still drawn", function()
        local facts = healthy()
        for dbid in pairs(facts.seen) do
            facts.seen[dbid] = { word_error = { code = "connect", message = "unreachable" },
                                 sql_error = { code = "timeout", message = "silence" } }
        end
        for _, view in pairs(VIEWS) do
            assert.is_true(#view(facts) > 0)
        end
        -- Of eight instances and their hosts, and a double fault of each segment.
        assert.equal(16 + 3, #judge.problems(facts))
        local _, hosts = text_of(errors.lines(facts)):gsub("cdw%s+unreachable", "")
        assert.equal(1, hosts)
        assert.matches("PID%s+= Unknown", text_of(details.lines(facts)))
        assert.matches("Unable to retrieve", text_of(places.versions(facts)))
    end)

    it("with mirrors on several hosts is spread", function()
        local facts = healthy()
        facts.instances[4].hostname = "other"
        assert.matches("Type = Spread", text_of(mirrors.list(facts)))
    end)

    it("with two versions says so", function()
        local facts = healthy()
        facts.seen[5].sql.version = "PostgreSQL 15.19 on x"
        assert.matches("%[WARNING%]:%-Versions for some segments do not match",
            text_of(places.versions(facts)))
    end)
end)

describe("state --json", function()
    it("holds the rows, the answers and the problems", function()
        local result = report.of(failed_over())
        assert.is_false(result.ok)
        assert.equal(8, #result.instances)
        assert.equal(5, result.instances[3].dbid)
        assert.equal("Not In Sync", result.instances[3].data_state)
        assert.equal("0/34AF9F98", result.instances[3].write_lsn)
        assert.equal("refused", result.instances[4].error)
        assert.is_true(report.of(healthy()).ok)
        assert.matches('"leases":%[%],.*"pauses":%[%],"problems":%[%]',
            mr.json_encode(report.of(healthy())))
        assert.equal(0, report.of(healthy()).instances[1].bytes_behind)
    end)

    it("of the catalog alone says nothing about what was not asked", function()
        local facts = healthy()
        facts.quick, facts.seen = true, {}
        local result = report.of(facts)
        assert.is_true(result.ok)
        assert.is_nil(result.instances[1].answer)
    end)
end)
