--- The sandbox: what goes in and comes out, what a chunk can name, how errors come back.
local box_of = require("tests.lib.box")
local mr = require("moonrise")

local box, call, assert_code = box_of.new, box_of.call, box_of.assert_code

describe("a sandbox", function()
    it("hands plain data in and out, as copies", function()
        local given = { list = { 1, 2.5, true }, ["a key"] = { text = "x\0y" }, [7] = false }
        local got = call("return function(x) return x end", given)
        assert.same(given, got)
        assert.are_not.equal(given, got)
        assert.are_not.equal(given.list, got.list)
    end)

    it("treats mr.null as nil and forgets metatables of what it is given", function()
        local err = mr.error("io", "text")
        assert.same({ code = "io", message = "text" },
            call("return function(x) return x end", err))
        assert.same({ b = 1 }, call("return function(x) return x end", { a = mr.null, b = 1 }))
    end)

    it("calls functions by name, gives values, and knows what it has", function()
        local sandbox = box("return { add = function(a, b) return a + b end, n = 1 }")
        assert.equals(5, sandbox:call("add", 2, 3))
        assert.is_true(sandbox:has("add"))
        assert.is_false(sandbox:has("n"))
        assert.is_false(sandbox:has("other"))
        assert.equals("notfound", select(2, sandbox:call("other")).code)
        assert.equals("notfound", select(2, sandbox:call()).code)
        assert.same({ a = { 1 } }, box("return { a = { 1 } }"):value())
        assert.equals("format", select(2, sandbox:value()).code)
    end)

    it("shows the data it is given as globals", function()
        local data = { limit = 3, names = { "a" } }
        local sandbox = box("return function() names[2] = 'b' return #names + limit end",
            { env = data })
        assert.equals(5, sandbox:call())
        assert.same({ "a" }, data.names)
        assert.equals("function", box("return type(pairs)", { env = { pairs = 1 } }):value())
    end)

    it("names the line of a syntax error, an error, and a limit", function()
        local sandbox, err = mr.sandbox({ source = "return {\n x = = 1 }", name = "c.lua" })
        assert.is_nil(sandbox)
        assert.equals("format", err.code)
        assert.matches("^c%.lua:2: ", err.message)
        assert_code("raised", "return function()\n local x\n return x.y\nend", "attack.lua:3: ")
        assert_code("limit", "return function()\n\n while true do end\nend",
            "attack.lua:3: it ran longer than 50 ms")
    end)

    it("reads files, and says what is wrong with them", function()
        local path = os.tmpname()
        assert(mr.write_file(path, "return 1 + nothing"))
        local _, err = mr.sandbox({ file = path })
        assert.equals("raised", err.code)
        assert.matches(path .. ":1: there is no name 'nothing'", err.message, 1, true)
        assert(mr.remove_file(path))
        _, err = mr.sandbox({ file = path })
        assert.equals("notfound", err.code)
    end)

    it("refuses wrong use", function()
        for _, options in ipairs({ {}, { source = "return 1", file = "x" }, { sauce = 1 },
            { source = 1 }, { source = "return 1", time_ms = -1 },
            { source = "return 1", memory_bytes = 1 },
            { source = "return 1", env = { f = print } }, { source = "return 1", env = 1 } }) do
            assert.has_error(function()
                mr.sandbox(options)
            end)
        end
        local sandbox = box("return function() end")
        for _, value in ipairs({ print, { a = { print } }, { [true] = 1 }, 0 / 0, 1 / 0 }) do
            assert.has_error(function()
                sandbox:call(nil, value)
            end)
        end
        sandbox:close()
        sandbox:close()
        assert.has_error(function()
            sandbox:call()
        end)
    end)
end)

describe("what a sandbox can name", function()
    local allowed = {
        assert = true, error = true, ipairs = true, next = true, pairs = true, pcall = true,
        select = true, tonumber = true, tostring = true, type = true, unpack = true,
        string = true, table = true, math = true,
    }

    it("is the allow-list and nothing else that this Lua knows", function()
        local names = { "ffi", "jit", "debug", "package", "require", "newproxy", "_ENV" }
        for name in pairs(_G) do
            names[#names + 1] = name
        end
        for _, name in ipairs(names) do
            if name:match("^[%a_][%w_]*$") and not allowed[name] then
                assert_code("raised", ("return function() return %s end"):format(name),
                    "there is no name '" .. name .. "'")
            end
        end
        for name in pairs(allowed) do
            assert.is_string(call(("return function() return type(%s) end"):format(name)))
        end
    end)

    it("has no dump in string, no random in math, nothing that walks tables in table", function()
        local source = "return function(l, n) return type(({ string = string, table = table, " ..
            "math = math })[l][n]) end"
        for _, name in ipairs({ "dump" }) do
            assert.equals("nil", call(source, "string", name))
        end
        for _, name in ipairs({ "random", "randomseed" }) do
            assert.equals("nil", call(source, "math", name))
        end
        for _, name in ipairs({ "maxn", "foreach", "foreachi", "getn", "move", "new", "clear" }) do
            assert.equals("nil", call(source, "table", name))
        end
        assert_code("raised", "return function() return ('x'):dump() end")
    end)

    it("cannot be set, not even names that exist", function()
        for _, name in ipairs({ "x", "string", "pairs", "string.rep", "math.x", "table.sort" }) do
            assert_code("raised", ("return function() %s = 1 end"):format(name),
                "cannot be set here")
        end
        local _, err = mr.sandbox({ source = "function helper() end return 1", name = "p.lua" })
        assert.matches("p.lua:1: 'helper' cannot be set here; use a local", err.message)
    end)

    it("is not reached by bytecode", function()
        local _, err = mr.sandbox({ source = string.dump(function() return 1 end), name = "b.lua" })
        assert.equals("format", err.code)
        assert.matches("bytecode", err.message)
    end)

    it("tells no addresses", function()
        assert.equals("table", call("return function() return tostring({}) end"))
        assert.equals("function", call("return function() return tostring(pairs) end"))
    end)
end)

describe("an error in a sandbox", function()
    it("may be any value", function()
        assert_code("raised", "return function() error({ code = 'x' }) end", "a table was raised")
        assert_code("raised", "return function() error() end", "a nil was raised")
        assert_code("raised", "return function() error(function() end) end")
        assert_code("raised", "return function() error('plain', 0) end", "plain")
        assert_code("raised", "return function() error(42) end")
    end)

    it("may be caught like anywhere", function()
        assert.same({ false, "x" }, call([[return function()
            local ok, err = pcall(error, "x", 0)
            return { ok, err }
        end]]))
    end)

    it("is made of an answer that is not plain", function()
        assert_code("format", "return function() return { a = { pairs } } end", "result.a%[1%]")
        assert_code("format", "return function() return 0 / 0 end", "not finite")
        assert_code("format", "return function() return { x = math.huge } end", "result.x")
        assert_code("format", "return function() return { [true] = 1 } end")
        assert_code("format", "return function() return { [{}] = 1 } end")
        assert_code("format", "return function() return string end", "metatable")
        assert.is_nil((call("return function() end")))
        local _, err = call("return function() end")
        assert.is_nil(err)
    end)

    it("is made of a chunk that returns nothing", function()
        local _, err = mr.sandbox({ source = "local x = 1" })
        assert.equals("raised", err.code)
    end)

    it("of an argument names the operation that got it", function()
        assert_code("raised", "return function() local s = ('x'):rep({}) return s end",
            "attack.lua:1: ")
        assert_code("raised", "return function() local t = table.concat({ {} }) return t end",
            "attack.lua:1: concat: ")
    end)
end)
