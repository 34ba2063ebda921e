"""Fixed names of the practice brand: accounts, shops, channels, products, and the words people are made of."""

from __future__ import annotations

from sandbox.state import FIRST_APP

BRAND = "山茶集"
TIMEZONE = "Asia/Shanghai"
OFFSET = 8 * 3600  # the zone has had no daylight saving since 1991
CORPID = "ww5a7d0c3b9e1f2468"
AGENTID, APP_SECRET = FIRST_APP
OTHER_SECRET, OTHER_AGENTID = "sandbox-secret-of-another-teams-app-00002", 1000003
OA_APPID, OA_SECRET = "wx0a00000000000001", "sandbox-oa-secret-0001"
MP_APPID, MP_SECRET = "wx0b00000000000002", "sandbox-mp-secret-0002"
H5_APPID = "wx0c00000000000003"
MALL, TAOBAO_SHOP, DOUYIN_SHOP = "山茶集商城", "山茶集旗舰店", "山茶集抖音店"
HISTORY_DAYS = 548

PHONE_PREFIXES = (
    134, 135, 136, 137, 138, 139, 150, 151, 152, 157, 158, 159, 182, 183, 184, 187, 188,
    130, 131, 132, 155, 156, 185, 186, 133, 153, 180, 181, 189,
)  # fmt: skip
DEFAULT_PHONES = ("13800138000", "13888888888", "13000000000", "18888888888", "13900000000", "11111111111")

SURNAMES = (
    "王李张刘陈杨黄赵周吴徐孙马朱胡郭何林高罗郑梁谢宋唐许韩冯邓曹彭曾肖田董潘袁蔡蒋余于杜叶程魏苏吕丁任卢"
    "姚沈钟姜崔谭陆汪范金石廖贾夏韦付方邹熊白孟秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱"
)
GIVEN = (
    "子涵梓萱雨桐欣怡诗琪可馨浩宇俊杰思远明轩佳怡语嫣若曦婉清静姝慧敏丽娜雪梅春燕海燕小红志强建国文博嘉懿"
    "晨曦一诺安然心怡乐瑶芷若书瑶依依思琪梦洁美玲秀英桂兰玉华晓东国栋天佑宏伟立新少华永康"
)

PLACES = (
    ("上海", "上海"), ("北京", "北京"), ("广东", "广州"), ("广东", "深圳"), ("浙江", "杭州"), ("江苏", "南京"),
    ("江苏", "苏州"), ("四川", "成都"), ("湖北", "武汉"), ("陕西", "西安"), ("重庆", "重庆"), ("湖南", "长沙"),
    ("福建", "厦门"), ("山东", "青岛"), ("河南", "郑州"), ("云南", "昆明"),
)  # fmt: skip

CATEGORIES = ("面部精华", "洁面", "面膜", "防晒", "彩妆", "身体护理", "香氛", "礼盒")
CATEGORY_PRICES = ((168, 899), (59, 199), (49, 259), (79, 299), (69, 329), (39, 199), (129, 699), (199, 1299))
CATEGORY_ITEMS = (
    ("山茶花修护精华", "烟酰胺亮采精华", "视黄醇晚间精华", "玻尿酸保湿精华", "红参紧致精华"),
    ("氨基酸洁面乳", "山茶洁颜泡沫", "温和卸妆膏", "净透洁面凝露"),
    ("山茶舒缓面膜", "补水面膜", "清洁泥膜", "睡眠面膜"),
    ("轻透防晒乳", "防晒喷雾", "儿童防晒霜", "隔离防晒霜"),
    ("丝绒口红", "持妆粉底液", "蜜粉饼", "眉笔", "腮红"),
    ("山茶身体乳", "护手霜", "沐浴油", "磨砂膏"),
    ("山茶淡香水", "香薰蜡烛", "车载香氛", "固体香膏"),
    ("新年礼盒", "山茶臻选礼盒", "旅行套装", "周年纪念礼盒"),
)
SPECS = ("30ml", "50ml", "标准装", "加大装", "两件装", "限定版")

# texts of corp messages
MESSAGES = (
    "新品到店，欢迎来试", "会员日双倍积分，今晚截止", "您有一张满减券待使用", "换季护理指南已更新",
)  # fmt: skip

# state, name, kind, campaign, cost of one year, weight, add_way
CHANNELS = (
    ("oa_menu", "公众号菜单", "公众号", "", 12000, 10, 1),
    ("oa_article_618", "618 推文", "公众号", "618_2026", 26000, 5, 1),
    ("mp_banner", "小程序首页弹窗", "小程序", "", 8000, 9, 1),
    ("pkg_card_tb", "淘宝包裹卡", "包裹卡", "", 42000, 12, 1),
    ("pkg_card_dy", "抖音包裹卡", "包裹卡", "", 18000, 6, 1),
    ("h5_double11", "双11 会场 H5", "H5", "1111_2026", 65000, 8, 1),
    ("h5_newyear", "新年抽奖 H5", "H5", "newyear_2026", 22000, 4, 1),
    ("live_channels", "视频号直播间", "视频号", "", 38000, 6, 10),
    ("xhs_kol", "小红书达人", "小红书", "kol_2026q3", 88000, 5, 16),
    ("dy_live", "抖音直播间", "抖音", "1111_2026", 120000, 6, 16),
    ("wb_ads", "微博广告", "微博", "", 30000, 2, 16),
    ("zhihu_article", "知乎好物", "知乎", "", 9000, 1, 16),
    ("dianping_shop", "点评门店页", "美团点评", "", 15000, 3, 1),
    ("friend_invite", "老带新裂变", "裂变", "invite_2026", 50000, 10, 1),
    ("sms_recall", "短信召回", "短信", "recall_2026", 6000, 2, 1),
    ("kf_service", "客服转接", "客服", "", 0, 3, 1),
)
STORE_CHANNEL_WEIGHT = 25  # shared by all stores' counter codes, `store_S001`

STAFF_GROUPS = (  # console-made groups (no app owns them): name, tags
    ("客户等级", ("普通客户", "重要客户", "核心客户")),
    ("意向品类", CATEGORIES),
    ("跟进状态", ("未跟进", "跟进中", "已成交", "已流失")),
)
PERSONAL_TAGS = ("爱喝茶", "宝妈", "敏感肌", "喜欢小样", "不要电话")
LEVELS = ("普通会员", "银卡", "金卡", "黑金")
REFUND_REASONS = ("不想要了", "质量问题", "少件漏发", "与描述不符", "七天无理由")
