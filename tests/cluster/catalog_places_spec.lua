--- The catalog's SQL on a stock server: an instance that gets another place.

local catalog = require("tests.lib.catalog")
local place_of = require("tests.lib.place")

local must, value, refused = catalog.must, catalog.value, catalog.refused
local record = catalog.record

local NEW = { host = "h9", port = 7009, datadir = "/data/new" }

describe("the catalog, of places,", function()
    local token, coordinator

    setup(catalog.open)
    teardown(place_of.close_all)

    before_each(function()
        token, coordinator = catalog.fresh()
        value(("mirror_down(%s, 0, 'spec')"):format(token))
    end)

    local function place(to)
        return ([['{"hostname": "%s", "address": "%s", "port": %s, "datadir": "%s"}']]):format(
            to.host, to.host, to.port, to.datadir)
    end

    local function begin(to, dbid)
        return ("move_begin(%s, 0, %d, %s)"):format(token, dbid or 4, place(to))
    end

    local function done(to, facts, dbid)
        return ("move_done(%s, 0, %d, %s, 'spec', '%s')"):format(token, dbid or 4, place(to),
            facts or "{}")
    end

    local function left()
        local list = {}
        for _, row in ipairs(must("select * from left_place order by datadir")) do
            list[#list + 1] = ("%s %s:%s"):format(row.dbid, row.hostname, row.datadir)
        end
        return list
    end

    it("notes the new one first and the old one afterwards", function()
        value(begin(NEW))
        value(begin(NEW))
        assert.same({ "4 h9:/data/new" }, left())
        local epoch = value(done(NEW, record("h9", "h0", "h32", "h33")))
        assert.same({ "4 h1:/data/7001" }, left())
        assert.same({ { hostname = "h9", address = "h9", port = "7009", datadir = "/data/new",
            status = "d", role = "m" } }, must("select hostname, address, port, datadir, " ..
            "status, role from gp_segment_configuration where dbid = 4"))
        assert.equal(epoch, value("select epoch from pair_state where content = 0"))
        assert.matches("move dbid 4 with contentid 0 to h9:7009:/data/new", value("select " ..
            "description from gp_configuration_history order by time desc limit 1"), 1, true)
        assert.equal(epoch, value(done(NEW)))
        assert.equal("t", value(("place_forget(%s, 0, 'h1', '/data/7001')"):format(token)))
        assert.equal("f", value(("place_forget(%s, 0, 'h1', '/data/7001')"):format(token)))
        assert.same({}, left())
    end)

    it("lets one come back to where it was, and leaves nothing where only the port changes",
        function()
        value(done(NEW, record("h9", "h0", "h32", "h33")))
        local old = { host = "h1", port = 7001, datadir = "/data/7001" }
        value(begin(old))
        value(done(old, record("h1", "h0", "h32", "h33")))
        assert.same({ "4 h9:/data/new" }, left())
        old.port = 7002
        value(begin(old))
        value(done(old))
        assert.same({ "4 h9:/data/new" }, left())
    end)

    it("refuses what another one has, and what is no place", function()
        local function each(words, to)
            refused("MR004", words, "select " .. begin(to))
            refused("MR004", words, "select " .. done(to))
        end
        each("dbid 3 has port 6000 on host h0", { host = "h0", port = 6000, datadir = "/d" })
        each("dbid 3 has directory /data/6000 on host h0",
            { host = "h0", port = 1, datadir = "/data/6000" })
        refused("MR004", "is no place", "select " .. begin({ host = "h9", port = 0,
            datadir = "/d" }))
        refused("MR004", "is no place", "select " .. begin({ host = "h9", port = 1,
            datadir = "d" }))
        refused("MR004", "is no place", "select " .. begin({ host = "", port = 1,
            datadir = "/d" }))
        assert.same({}, left())
    end)

    it("moves only a mirror that is down, under its content's lease", function()
        refused("MR003", "dbid 3 is not the mirror", "select " .. done(NEW, nil, 3))
        value(("mirror_up(%s, 0, 'spec')"):format(token))
        local row = "select hostname, port, datadir from gp_segment_configuration where dbid = 4"
        local before = must(row)
        value(begin(NEW))
        refused("MR001", "dbid 4 is recorded as up", "select " .. done(NEW, record("h9", "h0",
            "h32", "h33")))
        assert.same(before, must(row))
        refused("MR001", "the standby coordinator", ("select move_done(%s, -1, 2, %s, 'spec')")
            :format(coordinator, place(NEW)))
        value(("lease_drop(%s)"):format(token))
        refused("MR002", "is not held any more", "select " .. begin(NEW))
        refused("MR002", "is not held any more",
            ("select place_forget(%s, 0, 'h1', '/data/7001')"):format(token))
    end)

    it("adds a mirror to a content that has none, under its lease, with a record on the new host",
        function()
        local other = catalog.lease(1)
        catalog.add(other, 1, "p", 6002)
        local function add(content, facts, to, role)
            return ([[mirror_add(%s, '{"content": %d, "role": "%s", "hostname": "%s",
                "address": "%s", "port": %d, "datadir": "%s"}', '%s')]]):format(content == 1
                and other or content == 0 and token or coordinator, content, role or "m", to.host,
                to.host, to.port, to.datadir, facts or "{}")
        end
        refused("MR001", "only with a record on a majority", "select " .. add(1, nil, NEW))
        refused("MR001", "host h9 included", "select " .. add(1, record("h9", "h0", "h32"), NEW))
        refused("MR001", "host h9 included",
            "select " .. add(1, record("h1", "h0", "h32", "h33"), NEW))
        refused("MR003", "content 0 has a mirror already, dbid 4", "select " .. add(0, nil, NEW))
        refused("MR001", "the mirror of a segment", "select " .. add(-1, nil, NEW))
        refused("MR001", "the mirror of a segment", "select " .. add(1, nil, NEW, "p"))
        refused("MR004", "dbid 3 has port 6000 on host h0", "select " .. add(1, nil,
            { host = "h0", port = 6000, datadir = "/d" }))
        refused("MR002", "is not held any more", "select " .. add(1, nil, NEW):gsub(other, "99"))
        local dbid = value(add(1, record("h9", "h0", "h32", "h33"), NEW))
        assert.same({ { hostname = "h9", role = "m", status = "d", mode = "n",
            preferred_role = "m" } }, must("select hostname, role, status, mode, " ..
            "preferred_role from gp_segment_configuration where dbid = " .. dbid))
    end)

    it("gets other hosts only with a record on a majority of them and on the new one", function()
        refused("MR001", "only with a record on a majority", "select " .. done(NEW))
        for _, hosts in ipairs({ { "h0", "h9" }, { "h0", "h32", "h33" }, { "h0", "h1", "h32" },
                                 { "h9", "h9", "h1", "h32" }, { "h9", "h0", "h32" } }) do
            refused("MR001", "host h9 included", "select " .. done(NEW, record(unpack(hosts))))
        end
        refused("MR001", "only with a record on a majority", "select " .. done(NEW,
            (record("h9", "h0", "h32", "h33"):gsub("catalog_epoch", "epochs"))))
        local before = record("h9", "h0", "h32", "h33")
        value(("epoch_reserve(%s, -1, 'spec')"):format(coordinator))
        refused("MR003", "the hosts have recorded epoch", "select " .. done(NEW, before))
        value(done(NEW, record("h9", "h0", "h32", "h33")))
    end)

    it("loses hosts only with a record on a majority of those it has and of those it keeps",
        function()
        local function remove(facts)
            return ("instance_remove(%s, 4, '%s')"):format(token, facts or "{}")
        end
        refused("MR001", "only with a record on a majority", "select " .. remove())
        for _, hosts in ipairs({ { "h0" }, { "h0", "h1" }, { "h1", "h32" } }) do
            refused("MR001", "of those it gets: ", "select " .. remove(record(unpack(hosts))))
        end
        value(remove(record("h0", "h32", "h33")))
        assert.equal("0", value("select count(*) from gp_segment_configuration where dbid = 4"))
    end)

    it("reaches an epoch by the change that it does not reach without", function()
        local before = record("h9", "h0", "h32", "h33")
        local epoch = tonumber(before:match('catalog_epoch": (%d+)'))
        value(("epoch_seen(%d)"):format(epoch))
        refused("MR003", "of the catalog, which has come to", "select " .. done(NEW, before))
        assert.is_true(tonumber(value(done(NEW, record("h9", "h0", "h32", "h33")))) > epoch + 1000)
    end)
end)
