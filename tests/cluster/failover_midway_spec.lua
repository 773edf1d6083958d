--- A primary that is killed in the middle of something: of a transaction, a COPY, a prepared
--- transaction, many commits at once. What a client was told is so afterwards.

local cluster_of = require("tests.lib.cluster")
local place_of = require("tests.lib.place")
local shop = require("tests.lib.shop")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
local SESSIONS = 4
local COPIED = 3000
local FAILURE = "ERROR:"

describe("failover in the middle of", function()
    local place, cluster, watch, writers

    local function in_shop(server, sql)
        return server:sql(sql, { dbname = "shop" })
    end

    -- A sharded table of this spec's own, beside the writers'.
    local function make_goods()
        local coordinator = { "create table goods (id int, item text) partition by hash (id)",
            "alter table goods owner to shop" }
        for content = 0, 1 do
            in_shop(cluster:primary(content), [[create table goods (id int primary key, item text);
                alter table goods owner to shop]])
            table.insert(coordinator, ([[create foreign table goods_%d partition of goods
                for values with (modulus 2, remainder %d) server seg%d options (table_name 'goods');
                alter foreign table goods_%d owner to shop]]):format(content, content, content,
                content))
        end
        in_shop(cluster:coordinator(), table.concat(coordinator, ";"))
    end

    local function count(server, where)
        return tonumber(server:value("select count(*) from goods where " .. where,
            { dbname = "shop" }))
    end

    -- Rows of the whole table, as clients see it.
    local function visible(where)
        return tonumber(in_shop(cluster:coordinator(),
            "set role shop; select count(*) as n from goods where " .. where)[1].n)
    end

    local function fail_over(content)
        local mirror = cluster:mirror(content)
        cluster:primary(content):kill()
        cluster:wait_row({ dbid = mirror.dbid, role = "p" }, SOON_S)
        wait.eventually("the new primary to take writes", SOON_S, function()
            return mirror:value("pg_is_in_recovery()") == "f", watch:output()
        end)
        return cluster:primary(content)
    end

    local function works_again(session, sql)
        wait.eventually("the retry to work", SOON_S, function()
            local answer = session:ask(sql)
            return not answer:match(FAILURE), answer
        end)
    end

    -- Ids that the partition of this content takes.
    local function ids(content, from, how_many)
        local list = {}
        for _, row in ipairs(in_shop(cluster:coordinator(), ([[select i from
            generate_series(%d, %d) i where satisfies_hash_partition('goods'::regclass, 2, %d, i)
            limit %d]]):format(from, from + 50 + 10 * how_many, content, how_many))) do
            table.insert(list, tonumber(row.i))
        end
        assert.are.equal(how_many, #list)
        return list
    end

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 2, hba = shop.hba,
            settings = { max_prepared_transactions = "10" } })
        cluster:init()
        watch = cluster:watch()
        watch:says("watching", SOON_S)
        writers = shop.open(cluster, SESSIONS)
        make_goods()
    end)

    teardown(place_of.close_all)

    before_each(function()
        cluster:must({ "recoverseg", "-a" })
        cluster:wait_healthy()
    end)

    it("a transaction through the coordinator: its next statement fails, nothing of it is left",
        function()
        local session, id = shop.session(cluster), ids(0, 1, 2)
        local pid = session:ask("select pg_backend_pid()")
        session:ask("begin")
        local insert = "insert into goods values (%d, 'open')"
        assert.are.equal("", (session:ask(insert:format(id[1]))))
        fail_over(0)
        assert.matches(FAILURE, (session:ask(insert:format(id[2]))))
        session:ask("commit")
        assert.are.equal(0, visible("item = 'open'"))
        works_again(session, insert:format(id[1]))
        assert.are.equal(pid, (session:ask("select pg_backend_pid()")))
        assert.are.equal(1, visible("item = 'open'"))
        session:close()
    end)

    it("a transaction that is about to commit: COMMIT fails, nothing of it is left", function()
        local session, id = shop.session(cluster), ids(0, 1000, 1)[1]
        local pid = session:ask("select pg_backend_pid()")
        session:ask("begin")
        local insert = ("insert into goods values (%d, 'ready')"):format(id)
        assert.are.equal("", (session:ask(insert)))
        fail_over(0)
        assert.matches(FAILURE, (session:ask("commit")))
        assert.are.equal(0, visible("item = 'ready'"))
        works_again(session, "begin; " .. insert .. "; commit")
        assert.are.equal(pid, (session:ask("select pg_backend_pid()")))
        assert.are.equal(1, visible("item = 'ready'"))
        session:close()
    end)

    local function rows_to_copy(item, list, from, to)
        local lines = {}
        for i = from, to do
            lines[#lines + 1] = ("%d\t%s\n"):format(list[i], item)
        end
        return table.concat(lines)
    end

    -- Begins a COPY and feeds all but the last row; the server has taken many of them.
    local function begin_copy(session, item, list, progress_on)
        session.pipe:write("copy goods from stdin;\n", rows_to_copy(item, list, 1, #list - 1))
        session.pipe:flush()
        wait.eventually("the COPY to be under way", SOON_S, function()
            return progress_on:value(
                "select true from pg_stat_progress_copy where tuples_processed > 0")
        end)
    end

    local function end_copy(session, item, list)
        session.pipe:write(rows_to_copy(item, list, #list, #list), "\\.\n")
    end

    it("a COPY through the coordinator: it fails, and nothing of it is left on any segment",
        function()
        local session, list = shop.session(cluster), ids(0, 10000, COPIED / 2)
        for _, id in ipairs(ids(1, 10000, COPIED / 2)) do
            table.insert(list, id)
        end
        local pid = session:ask("select pg_backend_pid()")
        begin_copy(session, "copied", list, cluster:coordinator())
        fail_over(0)
        end_copy(session, "copied", list)
        assert.matches(FAILURE, (session:ask("select 'after it'")))
        assert.are.equal(0, visible("item = 'copied'"))
        for content = 0, 1 do
            assert.are.equal(0, count(cluster:primary(content), "item = 'copied'"))
        end
        session.pipe:write("copy goods from stdin;\n", rows_to_copy("copied", list, 1, #list - 1))
        end_copy(session, "copied", list)
        assert.are.equal("after it\n", (session:ask("select 'after it'")))
        assert.are.equal(pid, (session:ask("select pg_backend_pid()")))
        assert.are.equal(COPIED, visible("item = 'copied'"))
        session:close()
    end)

    it("a COPY into a segment: nothing of it is left, and a retry has it all", function()
        local primary = cluster:primary(1)
        local session, list = primary:session({ dbname = "shop" }), ids(1, 50000, COPIED)
        begin_copy(session, "direct", list, primary)
        local new = fail_over(1)
        assert.are.equal(0, count(new, "item = 'direct'"))
        end_copy(session, "direct", list)
        session:close()
        session = new:session({ dbname = "shop" })
        session.pipe:write("copy goods from stdin;\n", rows_to_copy("direct", list, 1, #list - 1))
        end_copy(session, "direct", list)
        assert.are.equal("done\n", (session:ask("select 'done'")))
        session:close()
        assert.are.equal(COPIED, count(new, "item = 'direct'"))
    end)

    it("a COPY that ended just before: it is there when that was said", function()
        local primary, list = cluster:primary(1), ids(1, 100000, COPIED)
        local session = primary:session({ dbname = "shop" })
        begin_copy(session, "late", list, primary)
        end_copy(session, "late", list)
        assert.are.equal("said\n", (session:ask("select 'said'")))
        local new = fail_over(1)
        assert.are.equal(COPIED, count(new, "item = 'late'"))
        session:close()
    end)

    it("a prepared transaction: it is there on the new primary, and on the recovered one",
        function()
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        local setting = "current_setting('max_prepared_transactions')"
        assert.are.equal("10", primary:value(setting))
        assert.are.equal("10", mirror:value(setting))
        for _, name in ipairs({ "kept", "given up", "kept for long" }) do
            in_shop(primary, ("begin; insert into goods values (%d, '%s'); " ..
                "prepare transaction '%s'"):format(200000 + #name, name, name))
        end
        local new = fail_over(0)
        assert.are.same({ { gid = "given up" }, { gid = "kept" }, { gid = "kept for long" } },
            new:sql("select gid from pg_prepared_xacts order by gid collate \"C\""))
        assert.are.equal(0, count(new, "id > 200000"))
        in_shop(new, "commit prepared 'kept'")
        in_shop(new, "rollback prepared 'given up'")
        assert.are.equal(1, count(new, "id > 200000"))
        cluster:must({ "recoverseg", "-a" })
        cluster:wait_healthy()
        local old = fail_over(0)
        assert.are.equal(primary.dbid, old.dbid)
        in_shop(old, "commit prepared 'kept for long'")
        assert.are.equal(2, count(old, "id > 200000"))
        assert.are.same({}, old:sql("select gid from pg_prepared_xacts"))
    end)

    it("many commits: whatever was acknowledged is there, whatever was refused is not", function()
        for content = 0, 1 do
            writers:progress(200, SOON_S)
            fail_over(content)
        end
        writers:progress(200, SOON_S)
        local proof = writers:prove()
        assert.is_true(proof.acknowledged > 500, proof.acknowledged)
        assert.is_true(proof.refused + proof.unknown > 0)
        shop.sound(proof)
    end)
end)
