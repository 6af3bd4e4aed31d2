#!/usr/bin/env python3
"""Write examples/medical/: a small English and Chinese set of medical facts.

Rerun from the repository root (standard library only, deterministic):

    python tools/reference/make_medical_demo.py [--out examples/medical]

The facts below are plain textbook facts, written for this project; the answers
are short.  Each relation has phrasings of its question per language: the
training phrasings, and held-out ones which are never used in training for any
fact.  The script writes

  pretrain.jsonl         {"text"}: every fact in several declarative wordings
  train.jsonl            alpaca rows: most pairings (training phrasing, fact)
  test_pairings.jsonl    tier 1: the other pairings (training phrasing, fact)
  test_phrasings.jsonl   tier 2: (held-out phrasing, fact)

and checks the rules given in examples/medical/README.md before it ends.
"""
import argparse
import json
import pathlib
import random
import re

HELD_PAIRINGS = 2    # per fact and language: training phrasings kept for tier 1
TIER2_PER_FACT = 2   # per fact and language: held-out phrasings asked in tier 2

# Each fact: English entity | English answer | Chinese entity | Chinese answer.
# Each relation and language: train and held phrasings, wordings of statements
# (the first wording is the cloze: it ends in the answer), and introductions.
RELATIONS = {}

RELATIONS["deficiency"] = {
    "facts": """
vitamin A|night blindness|维生素A|夜盲症
vitamin B1|beriberi|维生素B1|脚气病
vitamin B2|angular cheilitis|维生素B2|口角炎
vitamin B3|pellagra|维生素B3|糙皮病
vitamin B12|megaloblastic anemia|维生素B12|巨幼细胞贫血
folic acid|megaloblastic anemia|叶酸|巨幼细胞贫血
vitamin C|scurvy|维生素C|坏血病
vitamin D|rickets|维生素D|佝偻病
vitamin K|bleeding|维生素K|出血
iodine|goiter|碘|甲状腺肿
iron|anemia|铁|贫血
protein|edema|蛋白质|水肿
selenium|Keshan disease|硒|克山病
fluoride|tooth decay|氟|龋齿
potassium|muscle weakness|钾|肌无力
calcium|osteoporosis|钙|骨质疏松
water|dehydration|水分|脱水
zinc|slow growth|锌|生长迟缓
dietary fiber|constipation|膳食纤维|便秘
insulin|diabetes|胰岛素|糖尿病
growth hormone|dwarfism|生长激素|侏儒症
dopamine|Parkinson's disease|多巴胺|帕金森病
antidiuretic hormone|diabetes insipidus|抗利尿激素|尿崩症
factor VIII|hemophilia|凝血因子VIII|血友病
lactase|lactose intolerance|乳糖酶|乳糖不耐受
""",
    "en": {
        "train": ["Which disease is caused by a lack of {e}?",
                  "What happens when the body lacks {e}?",
                  "A lack of {e} leads to which disease?",
                  "Name the disease caused by {e} deficiency.",
                  "What disease does {e} deficiency cause?",
                  "Please tell me what a lack of {e} causes.",
                  "If a person lacks {e}, which disease may appear?",
                  "For {e} deficiency, name the disease.",
                  "Too little {e} in the body leads to what?",
                  "Tell me which problem may appear in a person with too little {e}.",
                  "Can you name the disease that appears if a person lacks {e}?"],
        "held": ["Please name the disease that a lack of {e} causes.",
                 "What disease may appear if the body lacks {e}?",
                 "Too little {e} in the body causes which disease?",
                 "Tell me which problem {e} deficiency leads to."],
        "say": ["A lack of {e} causes {a}.",
                "When the body lacks {e}, the disease that may appear is {a}.",
                "Too little {e} in the body leads to {a}.",
                "The disease caused by {e} deficiency is {a}.",
                "A person who lacks {e} may have {a}, a problem caused by deficiency.",
                "One cause of {a} is a lack of {e}."],
        "intro": ["The body needs many substances, and a lack of one leads to disease.",
                  "Some diseases are caused by deficiency."]},
    "zh": {
        "train": ["缺乏{e}会引起什么病？", "人体缺少{e}会怎么样？", "请问缺乏{e}会导致哪种疾病？",
                  "{e}缺乏会引起哪种疾病？", "什么问题是由{e}不足导致的？", "请说出缺乏{e}引起的疾病。",
                  "如果一个人缺少{e}，会得什么病？", "身体里{e}不足会得哪种病？",
                  "请告诉我，缺少{e}会引起什么？", "哪种疾病是由{e}缺乏导致的？",
                  "你知道缺乏{e}会得什么疾病吗？"],
        "held": ["请告诉我缺乏{e}会导致什么疾病。", "如果人体{e}不足，会引起什么病？",
                 "请问身体缺少{e}会得哪种疾病？", "请问什么病是由缺乏{e}引起的？"],
        "say": ["缺乏{e}会引起{a}。", "人体缺少{e}会得{a}。", "身体里{e}不足会导致{a}。",
                "由{e}缺乏引起的疾病是{a}。", "{a}是由缺乏{e}导致的疾病。", "{a}的一个原因是{e}不足。"],
        "intro": ["人体需要许多物质，缺乏其中一种就会引起疾病。", "有些疾病是由缺乏某种物质导致的。"]}}

RELATIONS["hormone"] = {
    "facts": """
insulin|pancreas|胰岛素|胰腺
glucagon|pancreas|胰高血糖素|胰腺
thyroxine|thyroid|甲状腺素|甲状腺
calcitonin|thyroid|降钙素|甲状腺
parathyroid hormone|parathyroid gland|甲状旁腺激素|甲状旁腺
cortisol|adrenal gland|皮质醇|肾上腺
adrenaline|adrenal gland|肾上腺素|肾上腺
aldosterone|adrenal gland|醛固酮|肾上腺
growth hormone|pituitary gland|生长激素|垂体
prolactin|pituitary gland|催乳素|垂体
thyroid-stimulating hormone|pituitary gland|促甲状腺激素|垂体
luteinizing hormone|pituitary gland|黄体生成素|垂体
follicle-stimulating hormone|pituitary gland|卵泡刺激素|垂体
adrenocorticotropic hormone|pituitary gland|促肾上腺皮质激素|垂体
oxytocin|hypothalamus|催产素|下丘脑
antidiuretic hormone|hypothalamus|抗利尿激素|下丘脑
melatonin|pineal gland|褪黑素|松果体
testosterone|testis|睾酮|睾丸
estrogen|ovary|雌激素|卵巢
progesterone|ovary|孕激素|卵巢
erythropoietin|kidney|促红细胞生成素|肾脏
renin|kidney|肾素|肾脏
gastrin|stomach|胃泌素|胃
ghrelin|stomach|胃饥饿素|胃
secretin|small intestine|促胰液素|小肠
cholecystokinin|small intestine|胆囊收缩素|小肠
leptin|fat tissue|瘦素|脂肪组织
thymosin|thymus|胸腺素|胸腺
chorionic gonadotropin|placenta|绒毛膜促性腺激素|胎盘
atrial natriuretic peptide|heart|心房钠尿肽|心脏
""",
    "en": {
        "train": ["Which organ produces {e}?",
                  "Where in the body is {e} produced?",
                  "What organ makes {e}?",
                  "Name the organ that produces {e}.",
                  "From which organ does {e} come?",
                  "Please tell me which organ makes {e}.",
                  "The hormone {e} is made by which organ?",
                  "Which organ releases {e} into the blood?",
                  "What is the source organ of {e}?",
                  "Tell me which part of the body makes the hormone {e}.",
                  "Can you name the organ that is the source of {e}?"],
        "held": ["Please name the organ that makes the hormone {e}.",
                 "Which organ releases the hormone {e}?",
                 "Tell me by which organ the hormone {e} is produced.",
                 "Where in the body is the hormone {e} made?"],
        "say": ["The hormone {e} is produced by the {a}.",
                "The organ that makes {e} is the {a}.",
                "In the body, {e} is made in the {a}.",
                "The source of {e} is the {a}.",
                "The {a} produces the hormone {e}.",
                "The {a} is the organ which makes {e}."],
        "intro": ["Hormones are made by organs and carried by the blood.",
                  "Each hormone comes from its own organ."]},
    "zh": {
        "train": ["{e}由哪个器官分泌？", "哪个器官分泌{e}？", "请问{e}是在哪里产生的？", "身体的哪个器官产生{e}？",
                  "请说出分泌{e}的器官。", "激素{e}来自哪个器官？", "{e}这种激素是由什么器官产生的？",
                  "请告诉我{e}来自哪里。", "分泌{e}的是哪个腺体或器官？", "人体在哪里分泌{e}？",
                  "你知道{e}是由哪个器官分泌的吗？"],
        "held": ["请告诉我哪个器官分泌{e}。", "请问{e}这种激素由哪个器官产生？",
                 "人体的什么器官分泌激素{e}？", "请说出{e}来自哪个器官。"],
        "say": ["分泌{e}的器官是{a}。", "激素{e}来自{a}。", "{e}由{a}分泌。", "{e}是在{a}产生的激素。",
                "{a}分泌{e}。", "人体产生{e}的器官是{a}。"],
        "intro": ["激素由器官分泌，随血液到达全身。", "每种激素都来自一个器官。"]}}

RELATIONS["drug_class"] = {
    "facts": """
amoxicillin|antibiotic|阿莫西林|抗生素
azithromycin|antibiotic|阿奇霉素|抗生素
vancomycin|antibiotic|万古霉素|抗生素
gentamicin|antibiotic|庆大霉素|抗生素
acyclovir|antiviral|阿昔洛韦|抗病毒药
oseltamivir|antiviral|奥司他韦|抗病毒药
fluconazole|antifungal|氟康唑|抗真菌药
terbinafine|antifungal|特比萘芬|抗真菌药
furosemide|diuretic|呋塞米|利尿药
hydrochlorothiazide|diuretic|氢氯噻嗪|利尿药
spironolactone|diuretic|螺内酯|利尿药
atorvastatin|statin|阿托伐他汀|他汀类
simvastatin|statin|辛伐他汀|他汀类
metoprolol|beta blocker|美托洛尔|β受体阻滞剂
propranolol|beta blocker|普萘洛尔|β受体阻滞剂
amlodipine|calcium channel blocker|氨氯地平|钙通道阻滞剂
nifedipine|calcium channel blocker|硝苯地平|钙通道阻滞剂
captopril|ACE inhibitor|卡托普利|ACE抑制剂
enalapril|ACE inhibitor|依那普利|ACE抑制剂
warfarin|anticoagulant|华法林|抗凝药
heparin|anticoagulant|肝素|抗凝药
omeprazole|proton pump inhibitor|奥美拉唑|质子泵抑制剂
pantoprazole|proton pump inhibitor|泮托拉唑|质子泵抑制剂
loratadine|antihistamine|氯雷他定|抗组胺药
cetirizine|antihistamine|西替利嗪|抗组胺药
salbutamol|bronchodilator|沙丁胺醇|支气管扩张药
prednisone|corticosteroid|泼尼松|糖皮质激素
dexamethasone|corticosteroid|地塞米松|糖皮质激素
fluoxetine|antidepressant|氟西汀|抗抑郁药
sertraline|antidepressant|舍曲林|抗抑郁药
haloperidol|antipsychotic|氟哌啶醇|抗精神病药
olanzapine|antipsychotic|奥氮平|抗精神病药
phenytoin|anticonvulsant|苯妥英|抗癫痫药
carbamazepine|anticonvulsant|卡马西平|抗癫痫药
chloroquine|antimalarial|氯喹|抗疟药
morphine|opioid|吗啡|阿片类
fentanyl|opioid|芬太尼|阿片类
lidocaine|local anesthetic|利多卡因|局部麻醉药
diazepam|sedative|地西泮|镇静药
lactulose|laxative|乳果糖|泻药
""",
    "en": {
        "train": ["Which class of drug is {e}?",
                  "What kind of drug is {e}?",
                  "To which drug class does {e} belong?",
                  "Name the drug class of {e}.",
                  "What is the drug class of {e}?",
                  "Please tell me what type of medicine {e} is.",
                  "The medicine {e} is of which class?",
                  "What type of drug do doctors call {e}?",
                  "Tell me in which class of medicine {e} is placed.",
                  "The drug {e} belongs to what kind of medicine?",
                  "Can you name the class in which the drug {e} is placed?"],
        "held": ["Please name the class of the medicine {e}.",
                 "What kind of medicine is {e}?",
                 "Tell me to which drug class the medicine {e} belongs.",
                 "The drug {e} is of what type?"],
        "say": ["The drug class of {e} is {a}.",
                "The medicine {e} belongs to the class {a}.",
                "By type of medicine, the drug {e} is called {a}.",
                "Doctors place the drug {e} in the class {a}.",
                "One drug of the class {a} is {e}.",
                "The kind of drug called {a} includes the medicine {e}."],
        "intro": ["Medicines are placed in classes by what they do.",
                  "Each drug belongs to a class of medicine."]},
    "zh": {
        "train": ["{e}属于哪类药物？", "{e}是什么类型的药？", "请问{e}是哪一类药？", "药物{e}属于什么类别？",
                  "请说出{e}的药物类别。", "{e}这种药属于什么类型？", "按类别，{e}是哪种药物？",
                  "请告诉我{e}是什么药。", "在药物分类中，{e}属于哪一类？", "医生把{e}归为哪类药？",
                  "你知道{e}属于哪个类别的药物吗？"],
        "held": ["请告诉我{e}属于哪类药物。", "请问药物{e}是什么类型？", "{e}这种药物属于哪个类别？",
                 "按药物分类，{e}是什么药？"],
        "say": ["{e}的药物类别是{a}。", "药物{e}属于{a}。", "{e}这种药是{a}。", "按分类，医生把{e}归为{a}。",
                "{a}这一类药物包括{e}。", "有一种{a}叫{e}。"],
        "intro": ["药物按作用分为不同类别。", "每种药物都属于一个类别。"]}}

RELATIONS["pathogen"] = {
    "facts": """
influenza|virus|流感|病毒
measles|virus|麻疹|病毒
mumps|virus|流行性腮腺炎|病毒
rubella|virus|风疹|病毒
chickenpox|virus|水痘|病毒
rabies|virus|狂犬病|病毒
polio|virus|脊髓灰质炎|病毒
dengue fever|virus|登革热|病毒
yellow fever|virus|黄热病|病毒
AIDS|virus|艾滋病|病毒
hepatitis B|virus|乙型肝炎|病毒
shingles|virus|带状疱疹|病毒
smallpox|virus|天花|病毒
the common cold|virus|普通感冒|病毒
tuberculosis|bacterium|结核病|细菌
cholera|bacterium|霍乱|细菌
tetanus|bacterium|破伤风|细菌
diphtheria|bacterium|白喉|细菌
whooping cough|bacterium|百日咳|细菌
typhoid fever|bacterium|伤寒|细菌
plague|bacterium|鼠疫|细菌
anthrax|bacterium|炭疽|细菌
leprosy|bacterium|麻风|细菌
scarlet fever|bacterium|猩红热|细菌
syphilis|bacterium|梅毒|细菌
gonorrhea|bacterium|淋病|细菌
Lyme disease|bacterium|莱姆病|细菌
malaria|parasite|疟疾|寄生虫
schistosomiasis|parasite|血吸虫病|寄生虫
toxoplasmosis|parasite|弓形虫病|寄生虫
giardiasis|parasite|贾第虫病|寄生虫
trichinosis|parasite|旋毛虫病|寄生虫
scabies|parasite|疥疮|寄生虫
athlete's foot|fungus|脚癣|真菌
ringworm|fungus|体癣|真菌
thrush|fungus|鹅口疮|真菌
aspergillosis|fungus|曲霉病|真菌
kuru|prion|库鲁病|朊粒
""",
    "en": {
        "train": ["What kind of germ causes {e}?",
                  "Which type of germ is the cause of {e}?",
                  "By what kind of germ is {e} caused?",
                  "Name the kind of germ that causes {e}.",
                  "The infection {e} comes from which type of germ?",
                  "Please tell me which germ causes {e}.",
                  "What germ is behind the infection {e}?",
                  "Which kind of pathogen causes {e}?",
                  "Tell me what type of pathogen is the cause of {e}.",
                  "For the infection {e}, name the type of pathogen.",
                  "Can you name the pathogen that causes {e}?"],
        "held": ["Please name the type of germ that causes {e}.",
                 "What kind of pathogen is behind {e}?",
                 "Tell me which type of pathogen causes the infection {e}.",
                 "By which type of germ is the infection {e} caused?"],
        "say": ["The infection {e} is caused by a {a}.",
                "The germ that causes {e} is a {a}.",
                "The pathogen behind {e} is a {a}.",
                "The type of germ which is the cause of {e} is a {a}.",
                "A {a} is the cause of the infection {e}.",
                "A {a} is the kind of pathogen that causes {e}."],
        "intro": ["A germ that causes disease is called a pathogen.",
                  "Infections come from viruses, bacteria, fungi, parasites and prions."]},
    "zh": {
        "train": ["{e}由哪种病原体引起？", "引起{e}的病原体是什么？", "请问{e}是由什么感染引起的？",
                  "哪类病原体会导致{e}？", "请说出引起{e}的病原体类型。", "{e}的病原体属于哪一类？",
                  "导致{e}的是哪种病原体？", "请告诉我{e}的病原体是什么。", "{e}这种感染的病原体是哪种？",
                  "得{e}是感染了什么类型的病原体？",
                  "你知道{e}是什么病原体引起的吗？"],
        "held": ["请告诉我引起{e}的病原体是哪种。", "请问哪种病原体会引起{e}？", "导致{e}的病原体是什么类型？",
                 "{e}这种感染由什么病原体导致？"],
        "say": ["引起{e}的病原体是{a}。", "{e}的病原体类型是{a}。", "{e}是由{a}感染引起的。", "导致{e}的病原体属于{a}。",
                "{a}是引起{e}的病原体。", "{a}感染会导致{e}。"],
        "intro": ["能引起感染的微生物叫病原体。", "病原体的类型有病毒、细菌、真菌、寄生虫和朊粒。"]}}

RELATIONS["specialist"] = {
    "facts": """
acne|dermatologist|痤疮|皮肤科
eczema|dermatologist|湿疹|皮肤科
psoriasis|dermatologist|银屑病|皮肤科
cataract|ophthalmologist|白内障|眼科
glaucoma|ophthalmologist|青光眼|眼科
retinal detachment|ophthalmologist|视网膜脱离|眼科
arrhythmia|cardiologist|心律失常|心内科
angina|cardiologist|心绞痛|心内科
heart failure|cardiologist|心力衰竭|心内科
asthma|pulmonologist|哮喘|呼吸科
emphysema|pulmonologist|肺气肿|呼吸科
chronic bronchitis|pulmonologist|慢性支气管炎|呼吸科
epilepsy|neurologist|癫痫|神经内科
migraine|neurologist|偏头痛|神经内科
multiple sclerosis|neurologist|多发性硬化|神经内科
Parkinson's disease|neurologist|帕金森病|神经内科
brain tumor|neurosurgeon|脑肿瘤|神经外科
depression|psychiatrist|抑郁症|精神科
schizophrenia|psychiatrist|精神分裂症|精神科
bipolar disorder|psychiatrist|双相障碍|精神科
diabetes|endocrinologist|糖尿病|内分泌科
hyperthyroidism|endocrinologist|甲亢|内分泌科
kidney failure|nephrologist|肾衰竭|肾内科
nephrotic syndrome|nephrologist|肾病综合征|肾内科
enlarged prostate|urologist|前列腺增生|泌尿科
kidney stones|urologist|肾结石|泌尿科
gastric ulcer|gastroenterologist|胃溃疡|消化科
Crohn's disease|gastroenterologist|克罗恩病|消化科
rheumatoid arthritis|rheumatologist|类风湿关节炎|风湿科
lupus|rheumatologist|红斑狼疮|风湿科
leukemia|hematologist|白血病|血液科
hemophilia|hematologist|血友病|血液科
bone fracture|orthopedist|骨折|骨科
tooth decay|dentist|龋齿|口腔科
gingivitis|dentist|牙龈炎|口腔科
uterine fibroids|gynecologist|子宫肌瘤|妇科
sinusitis|ENT doctor|鼻窦炎|耳鼻喉科
tonsillitis|ENT doctor|扁桃体炎|耳鼻喉科
""",
    "en": {
        "train": ["Which specialist treats {e}?",
                  "What doctor should a patient with {e} see?",
                  "Which doctor takes care of {e}?",
                  "Name the specialist who treats {e}.",
                  "Who treats a patient with {e}?",
                  "Please tell me which doctor treats {e}.",
                  "A patient has {e}. Which specialist can help?",
                  "To which specialist should a patient with {e} go?",
                  "Tell me what specialist takes care of a patient with {e}.",
                  "If a patient has {e}, who can help?",
                  "Can you name the doctor to see for {e}?"],
        "held": ["Please name the doctor who takes care of {e}.",
                 "Which specialist should a patient with {e} see?",
                 "A patient has {e}. What doctor can help?",
                 "Tell me to which doctor a patient with {e} should go."],
        "say": ["The specialist who treats {e} is the {a}.",
                "A patient with {e} should see the {a}.",
                "The doctor who takes care of {e} is the {a}.",
                "If a patient has {e}, this patient should go to the {a}.",
                "The {a} is the specialist who can help with {e}.",
                "The {a} treats a patient who has {e}."],
        "intro": ["Each specialist takes care of some diseases.",
                  "A patient should see the right doctor."]},
    "zh": {
        "train": ["得了{e}应该看什么科？", "{e}应该挂哪个科？", "请问{e}去哪个科室看？", "治疗{e}的是哪个科室？",
                  "请说出治疗{e}的科室。", "患者有{e}，应该去什么科室？", "哪个科室的医生治疗{e}？",
                  "请告诉我，{e}挂什么科。", "如果患者得了{e}，去哪个科看医生？", "看{e}要找哪个科的医生？",
                  "你知道{e}应该看哪个科室吗？"],
        "held": ["请告诉我得了{e}应该看哪个科。", "请问治疗{e}要去什么科室？", "患者得了{e}，应该挂什么科？",
                 "如果有{e}，要找哪个科室的医生？"],
        "say": ["治疗{e}的科室是{a}。", "得了{e}应该看{a}。", "患者有{e}应该挂{a}。", "看{e}要去{a}。",
                "{a}的医生治疗{e}。", "{a}是治疗{e}的科室。"],
        "intro": ["医院有许多科室，患者应该去对应的科室。", "不同科室的医生治疗不同的疾病。"]}}

RELATIONS["antidote"] = {
    "facts": """
morphine|naloxone|吗啡|纳洛酮
heroin|naloxone|海洛因|纳洛酮
acetaminophen|acetylcysteine|对乙酰氨基酚|乙酰半胱氨酸
heparin|protamine|肝素|鱼精蛋白
warfarin|vitamin K|华法林|维生素K
diazepam|flumazenil|地西泮|氟马西尼
organophosphate|atropine|有机磷|阿托品
ethylene glycol|fomepizole|乙二醇|甲吡唑
cyanide|hydroxocobalamin|氰化物|羟钴胺
carbon monoxide|oxygen|一氧化碳|氧气
digoxin|digoxin antibodies|地高辛|地高辛抗体
iron|deferoxamine|铁|去铁胺
arsenic|dimercaprol|砷|二巯丙醇
methotrexate|leucovorin|甲氨蝶呤|亚叶酸
isoniazid|vitamin B6|异烟肼|维生素B6
nitrite|methylene blue|亚硝酸盐|亚甲蓝
propranolol|glucagon|普萘洛尔|胰高血糖素
dabigatran|idarucizumab|达比加群|依达赛珠单抗
magnesium sulfate|calcium gluconate|硫酸镁|葡萄糖酸钙
snake venom|antivenom|蛇毒|抗蛇毒血清
insulin|glucose|胰岛素|葡萄糖
botulinum toxin|antitoxin|肉毒毒素|抗毒素
atropine|physostigmine|阿托品|毒扁豆碱
thallium|Prussian blue|铊|普鲁士蓝
""",
    "en": {
        "train": ["What is the antidote for {e} poisoning?",
                  "Which antidote is given for {e}?",
                  "What is given to treat {e} poisoning?",
                  "Name the antidote for {e}.",
                  "Which antidote works against {e}?",
                  "Please tell me the antidote for {e}.",
                  "A person was poisoned by {e}. What is the antidote?",
                  "Tell me what works against {e} poisoning.",
                  "After too much {e}, which antidote is given?",
                  "In {e} poisoning, what should be given?",
                  "Can you name what is given in {e} poisoning?"],
        "held": ["Please name the antidote given for {e} poisoning.",
                 "Which antidote should be given in {e} poisoning?",
                 "A person was poisoned by {e}. Which antidote works?",
                 "Tell me what is given against {e} poisoning."],
        "say": ["The antidote for {e} poisoning is {a}.",
                "The antidote that works against {e} is {a}.",
                "A person poisoned by {e} should be given {a}.",
                "After too much {e}, the antidote given is {a}.",
                "For {e} poisoning the antidote {a} is given.",
                "The antidote {a} works against {e}."],
        "intro": ["Poisoning is treated with the right antidote.",
                  "An antidote works against a poison."]},
    "zh": {
        "train": ["{e}中毒的解毒药是什么？", "{e}中毒用什么解毒？", "请问{e}的解毒剂是什么？", "哪种解毒药能治疗{e}中毒？",
                  "请说出{e}中毒的解毒剂。", "有人{e}中毒，应该用什么药？", "{e}过量时用哪种解毒药？",
                  "请告诉我{e}的解毒药。", "治疗{e}中毒应该用什么？", "能对抗{e}毒性的解毒剂是哪种？",
                  "你知道{e}中毒的解毒药是哪种吗？"],
        "held": ["请告诉我{e}中毒用什么解毒药。", "请问有人{e}中毒，用哪种解毒剂？", "治疗{e}中毒的解毒药是哪种？",
                 "{e}过量中毒，应该用什么解毒？"],
        "say": ["{e}中毒的解毒药是{a}。", "治疗{e}中毒应该用{a}。", "{e}的解毒剂是{a}。", "{e}过量时用解毒药{a}。",
                "解毒药{a}能对抗{e}的毒性。", "{a}是{e}中毒的解毒剂。"],
        "intro": ["中毒时应该用对应的解毒药。", "解毒剂能对抗毒性。"]}}

RELATIONS["affected_part"] = {
    "facts": """
cirrhosis|liver|肝硬化|肝脏
pneumonia|lungs|肺炎|肺
emphysema|lungs|肺气肿|肺
asthma|airways|哮喘|气道
pleurisy|pleura|胸膜炎|胸膜
nephritis|kidneys|肾炎|肾脏
cystitis|bladder|膀胱炎|膀胱
gastritis|stomach|胃炎|胃
colitis|colon|结肠炎|结肠
appendicitis|appendix|阑尾炎|阑尾
cholecystitis|gallbladder|胆囊炎|胆囊
pancreatitis|pancreas|胰腺炎|胰腺
meningitis|meninges|脑膜炎|脑膜
encephalitis|brain|脑炎|大脑
stroke|brain|中风|大脑
Alzheimer's disease|brain|阿尔茨海默病|大脑
myocarditis|heart|心肌炎|心脏
myocardial infarction|heart|心肌梗死|心脏
osteomyelitis|bones|骨髓炎|骨骼
osteoporosis|bones|骨质疏松|骨骼
arthritis|joints|关节炎|关节
dermatitis|skin|皮炎|皮肤
vitiligo|skin|白癜风|皮肤
psoriasis|skin|银屑病|皮肤
conjunctivitis|eyes|结膜炎|眼睛
cataract|lens|白内障|晶状体
glaucoma|optic nerve|青光眼|视神经
otitis media|ears|中耳炎|耳朵
rhinitis|nose|鼻炎|鼻子
pharyngitis|throat|咽炎|咽喉
gingivitis|gums|牙龈炎|牙龈
Graves' disease|thyroid|格雷夫斯病|甲状腺
goiter|thyroid|甲状腺肿|甲状腺
Addison's disease|adrenal glands|艾迪生病|肾上腺
varicose veins|veins|静脉曲张|静脉
leukemia|bone marrow|白血病|骨髓
sciatica|sciatic nerve|坐骨神经痛|坐骨神经
scoliosis|spine|脊柱侧弯|脊柱
mastitis|breasts|乳腺炎|乳房
hemorrhoids|anus|痔疮|肛门
""",
    "en": {
        "train": ["Which part of the body is affected by {e}?",
                  "What body part does {e} affect?",
                  "Where in the body is the damage of {e}?",
                  "Name the body part affected by {e}.",
                  "What part of the body does {e} damage?",
                  "Please tell me which body part {e} affects.",
                  "The condition {e} affects which part of the body?",
                  "In {e}, what part of the body is damaged?",
                  "Tell me which body part is damaged in {e}.",
                  "Where in the body is the condition {e} found?",
                  "Can you name the body part that {e} damages?"],
        "held": ["Please name the part of the body that {e} affects.",
                 "What body part is affected by the condition {e}?",
                 "Tell me which part of the body is damaged in {e}.",
                 "Which body part does the condition {e} affect?"],
        "say": ["The part of the body affected by {e} is the {a}.",
                "The condition {e} affects the {a}.",
                "In {e}, the body part that is damaged is the {a}.",
                "The condition {e} is found in the {a}.",
                "The {a} may be affected by {e}.",
                "Damage of the {a} is seen in the condition {e}."],
        "intro": ["A condition often affects one part of the body.",
                  "Some conditions damage a body part."]},
    "zh": {
        "train": ["{e}影响身体的哪个部位？", "{e}主要损害哪个部位？", "请问{e}发生在身体的哪里？", "{e}的病变部位是哪里？",
                  "请说出{e}影响的部位。", "{e}会损害身体的什么部位？", "发生{e}时，哪个部位有病变？",
                  "请告诉我{e}的病变在哪里。", "{e}这种病主要影响哪里？", "身体的哪个部位会发生{e}？",
                  "你知道{e}会损害什么部位吗？"],
        "held": ["请告诉我{e}影响身体的什么部位。", "请问{e}的病变发生在哪个部位？", "{e}这种病会损害哪个部位？",
                 "请说出{e}主要影响身体的哪里。"],
        "say": ["{e}影响的部位是{a}。", "{e}主要损害{a}。", "{e}的病变发生在{a}。", "身体发生{e}的部位是{a}。",
                "{a}有病变时可能是{e}。", "{a}是{e}影响的部位。"],
        "intro": ["一种病常常影响身体的一个部位。", "病变会损害身体的部位。"]}}

RELATIONS["device"] = {
    "facts": """
blood pressure|sphygmomanometer|血压|血压计
body temperature|thermometer|体温|体温计
heart sounds|stethoscope|心音|听诊器
heart rhythm|electrocardiograph|心律|心电图机
brain waves|electroencephalograph|脑电波|脑电图机
muscle activity|electromyograph|肌肉活动|肌电图机
lung function|spirometer|肺功能|肺量计
blood sugar|glucose meter|血糖|血糖仪
blood oxygen|pulse oximeter|血氧|血氧仪
eye pressure|tonometer|眼压|眼压计
visual acuity|eye chart|视力|视力表
hearing|audiometer|听力|听力计
body weight|scale|体重|体重秤
bone density|bone densitometer|骨密度|骨密度仪
the retina|ophthalmoscope|视网膜|检眼镜
the cornea|slit lamp|角膜|裂隙灯
the ear canal|otoscope|耳道|耳镜
the nasal cavity|rhinoscope|鼻腔|鼻镜
the larynx|laryngoscope|喉部|喉镜
the bronchi|bronchoscope|支气管|支气管镜
the stomach|gastroscope|胃|胃镜
the colon|colonoscope|结肠|结肠镜
the bladder|cystoscope|膀胱|膀胱镜
the uterine cavity|hysteroscope|宫腔|宫腔镜
the abdominal cavity|laparoscope|腹腔|腹腔镜
the joint cavity|arthroscope|关节腔|关节镜
the fetus|ultrasound scanner|胎儿|超声仪
skin spots|dermatoscope|皮肤斑点|皮肤镜
blood cells|microscope|血细胞|显微镜
the knee reflex|reflex hammer|膝反射|叩诊锤
""",
    "en": {
        "train": ["Which device is used to check {e}?",
                  "What device do doctors use to examine {e}?",
                  "With which device is {e} examined?",
                  "Name the device used to check {e}.",
                  "What is the device to examine {e} called?",
                  "Please tell me which device checks {e}.",
                  "To check {e}, which instrument is used?",
                  "Tell me what instrument doctors need to check {e}.",
                  "Which instrument is used when {e} must be examined?",
                  "To examine {e}, what instrument do doctors use?",
                  "Can you name the device to check {e}?"],
        "held": ["Please name the instrument used to examine {e}.",
                 "What instrument is used to check {e}?",
                 "To examine {e}, which device is used?",
                 "Tell me what device doctors need to check {e}."],
        "say": ["The device used to check {e} is called the {a}.",
                "The instrument doctors use to examine {e} is the {a}.",
                "To check {e}, doctors need the {a}.",
                "When {e} must be examined, the device is the {a}.",
                "The {a} is the instrument used to examine {e}.",
                "With the {a}, doctors check {e}."],
        "intro": ["Doctors use many devices and instruments.",
                  "Each instrument is used to check one thing."]},
    "zh": {
        "train": ["检查{e}用什么仪器？", "医生用什么工具检查{e}？", "请问检查{e}需要哪种仪器？", "哪种仪器用来检查{e}？",
                  "请说出检查{e}的仪器。", "要检查{e}，应该用什么工具？", "用来检查{e}的仪器叫什么？",
                  "请告诉我用什么检查{e}。", "医生检查{e}时需要什么仪器？", "检查{e}的工具是哪种？",
                  "你知道检查{e}用哪种工具吗？"],
        "held": ["请告诉我检查{e}用哪种仪器。", "请问医生用什么仪器检查{e}？", "要检查{e}，需要哪种工具？",
                 "用来检查{e}的工具叫什么？"],
        "say": ["检查{e}的仪器是{a}。", "用来检查{e}的工具叫{a}。", "要检查{e}，医生需要{a}。", "医生检查{e}时用{a}。",
                "{a}是用来检查{e}的仪器。", "{a}这种工具能检查{e}。"],
        "intro": ["医生用许多仪器检查身体。", "每种仪器都有用处。"]}}

RELATIONS["function"] = {
    "facts": """
heart|pump blood|心脏|泵血
lungs|exchange gases|肺|交换气体
kidneys|filter blood|肾脏|过滤血液
liver|make bile|肝脏|分泌胆汁
stomach|digest food|胃|消化食物
small intestine|absorb nutrients|小肠|吸收营养
large intestine|absorb water|大肠|吸收水分
gallbladder|store bile|胆囊|储存胆汁
bladder|store urine|膀胱|储存尿液
red blood cells|carry oxygen|红细胞|运输氧气
white blood cells|fight infection|白细胞|抵抗感染
platelets|stop bleeding|血小板|止血
bone marrow|make blood cells|骨髓|制造血细胞
skull|protect the brain|颅骨|保护大脑
eyelids|protect the eyes|眼睑|保护眼睛
retina|sense light|视网膜|感受光线
cochlea|sense sound|耳蜗|感受声音
lens of the eye|focus light|晶状体|聚焦光线
esophagus|carry food|食管|输送食物
trachea|carry air|气管|输送空气
ureters|carry urine|输尿管|输送尿液
teeth|chew food|牙齿|咀嚼食物
skeleton|support the body|骨骼|支撑身体
skeletal muscles|move the body|骨骼肌|产生运动
cerebellum|keep balance|小脑|维持平衡
hippocampus|form memories|海马体|形成记忆
diaphragm|drive breathing|膈肌|推动呼吸
uterus|carry the fetus|子宫|孕育胎儿
salivary glands|make saliva|唾液腺|分泌唾液
sweat glands|make sweat|汗腺|分泌汗液
tear glands|make tears|泪腺|分泌眼泪
mammary glands|make milk|乳腺|分泌乳汁
heart valves|stop backflow|心脏瓣膜|防止反流
ligaments|connect bones|韧带|连接骨骼
vocal cords|make sound|声带|发出声音
""",
    "en": {
        "train": ["What is the main function of the {e}?",
                  "What is the job of the {e}?",
                  "Which job is done by the {e}?",
                  "Name the function of the {e}.",
                  "In the body, what is the job of the {e}?",
                  "Please tell me the function of the {e}.",
                  "For what job does the body need the {e}?",
                  "Which function is done by the {e} in the body?",
                  "Why does the body need the {e}?",
                  "Tell me what task the body needs the {e} for.",
                  "Can you name the main task of the {e}?"],
        "held": ["Please name the main job of the {e}.",
                 "What is the function of the {e} in the body?",
                 "Tell me what task is done by the {e}.",
                 "What main function does the body need the {e} for?"],
        "say": ["The main function of the {e} is to {a}.",
                "The job of the {e} is to {a}.",
                "In the body, the task of the {e} is to {a}.",
                "The body needs the {e} to {a}.",
                "To {a} is the main job done by the {e}.",
                "To {a}, the body needs the {e}."],
        "intro": ["Each organ has a function in the body.",
                  "Every part of the body has a job."]},
    "zh": {
        "train": ["{e}的主要功能是什么？", "{e}有什么功能？", "请问{e}的作用是什么？", "人体的{e}有什么作用？",
                  "请说出{e}的主要功能。", "{e}在人体中负责什么？", "身体需要{e}来做什么？",
                  "请告诉我{e}的作用。", "人体中，{e}的主要工作是什么？", "{e}负责做什么工作？",
                  "你知道{e}在人体中的作用吗？"],
        "held": ["请告诉我{e}的主要功能是什么。", "请问人体的{e}负责什么？", "{e}在身体中有什么作用？",
                 "请说出{e}在人体中的主要作用。"],
        "say": ["{e}的主要功能是{a}。", "人体的{e}负责{a}。", "{e}的作用是{a}。", "身体需要{e}来{a}。",
                "{a}是{e}的主要工作。", "在人体中，{a}由{e}负责。"],
        "intro": ["每个器官在人体中都有功能。", "身体的每个部位都有自己的工作。"]}}

# Heads of note cards: the head, a colon and a line break, then the bare answer.
CARDS = {
    "deficiency": ("Disease caused by a lack of {e}", "缺乏{e}引起的疾病"),
    "hormone": ("Organ that produces {e}", "分泌{e}的器官"),
    "drug_class": ("Drug class of {e}", "{e}的药物类别"),
    "pathogen": ("Kind of germ that causes {e}", "引起{e}的病原体"),
    "specialist": ("Specialist who treats {e}", "治疗{e}的科室"),
    "antidote": ("Antidote for {e} poisoning", "{e}中毒的解毒药"),
    "affected_part": ("Part of the body affected by {e}", "{e}影响的部位"),
    "device": ("Device used to check {e}", "检查{e}的仪器"),
    "function": ("Main function of the {e}", "{e}的主要功能"),
}

GENERAL = {
    "en": ["Medicine is the study of health and disease.",
           "This text is for teaching; it is no advice for a patient.",
           "A good doctor listens to the patient first.",
           "The body is made of organs, and organs are made of cells.",
           "Here are some facts.", "Let us look at some more facts.",
           "These facts are found in every textbook."],
    "zh": ["医学研究健康和疾病。", "这段文字只用于学习，不是医疗建议。", "好医生先听患者说。",
           "人体由器官组成，器官由细胞组成。", "下面是一些知识。", "我们再看一些知识。", "这些知识在课本里都有。"]}


def units(text, language):
    """English words as spelt ("Tell" is not "tell"), or Chinese characters and Latin words."""
    if language == "en":
        return set(re.findall(r"[A-Za-z0-9'\-]+", text))
    return set(re.findall(r"[A-Za-z0-9]+|[^\sA-Za-z0-9]", text))


def facts():
    out = []
    for rel, r in RELATIONS.items():
        seen = set()
        for i, line in enumerate(r["facts"].strip().splitlines()):
            ee, ea, ze, za = line.split("|")
            assert ee not in seen and ze not in seen, line
            seen |= {ee, ze}
            out.append({"id": f"{rel}-{i:02d}", "relation": rel,
                        "en": (ee, ea), "zh": (ze, za)})
    return out


def fill(template, pair):
    return template.replace("{e}", pair[0]).replace("{a}", pair[1])


def cloze(wording, pair):
    """The statement up to the answer: "A lack of vitamin C causes"."""
    head, tail = wording.split("{a}")
    assert tail in (".", "。")
    return head.replace("{e}", pair[0]).rstrip(" ")


def questions(all_facts, rng):
    train, tier1, tier2 = [], [], []
    for lang in ("en", "zh"):
        for f in all_facts:
            q = RELATIONS[f["relation"]][lang]
            n = len(q["train"])
            assert n >= 9 and len(q["held"]) >= 3
            keep_out = set(rng.sample(range(n), HELD_PAIRINGS))
            extra = {"language": lang, "relation": f["relation"], "fact": f["id"],
                     "cloze": cloze(q["say"][0], f[lang])}
            row = lambda t: {"instruction": fill(t, f[lang]), "input": "", "output": f[lang][1]}
            for i, t in enumerate(q["train"]):
                if i in keep_out:
                    tier1.append(row(t) | extra)
                else:
                    train.append(row(t))
            for t in rng.sample(q["held"], TIER2_PER_FACT):
                tier2.append(row(t) | extra)
    rng.shuffle(train)
    return train, tier1, tier2


def preferences(all_facts, train, rng):
    """Two questions of each fact in each language, as they stand in training: the answer, and that of another fact of the relation."""
    asked = {r["instruction"] for r in train}
    rows = []
    for lang in ("en", "zh"):
        for f in all_facts:
            prompts = [p for p in (fill(t, f[lang]) for t in RELATIONS[f["relation"]][lang]["train"]) if p in asked]
            others = [o[lang][1] for o in all_facts if o["relation"] == f["relation"] and o[lang][1] != f[lang][1]]
            for prompt in rng.sample(prompts, 2):
                rows.append({"prompt": prompt, "chosen": f[lang][1], "rejected": rng.choice(others)})
    rng.shuffle(rows)
    return rows


def passages(all_facts, rng):
    """Every (fact, wording) twice, grouped by relation into short passages."""
    rows = []
    for lang in ("en", "zh"):
        gap = " " if lang == "en" else ""
        for rel, r in RELATIONS.items():
            own = [f for f in all_facts if f["relation"] == rel]
            said = [fill(w, f[lang]) for w in r[lang]["say"] for f in own] * 2
            rng.shuffle(said)
            while said:
                k = rng.randint(3, 5)
                part, said = said[:k], said[k:]
                if rng.random() < 0.3:
                    part.insert(0, rng.choice(r[lang]["intro"]))
                if rng.random() < 0.15:
                    part.insert(0, rng.choice(GENERAL[lang]))
                rows.append({"text": gap.join(part)})
        # Note cards, mixed: they show the answers at the beginning of a line.
        colon = ":" if lang == "en" else "："
        said = [fill(CARDS[f["relation"]][lang == "zh"] + colon + "\n{a}", f[lang])
                for f in all_facts] * 2
        rng.shuffle(said)
        while said:
            k = rng.randint(3, 5)
            rows.append({"text": "\n".join(said[:k])})
            said = said[k:]
        # Mixed passages: one fact of several relations.
        said = [fill(rng.choice(RELATIONS[f["relation"]][lang]["say"][:4]), f[lang])
                for f in all_facts]
        rng.shuffle(said)
        while said:
            k = rng.randint(3, 5)
            part, said = said[:k], said[k:]
            part.insert(0, rng.choice(GENERAL[lang]))
            rows.append({"text": gap.join(part)})
    rng.shuffle(rows)
    return rows


def check(all_facts, pretrain, train, tier1, tier2):
    asked = {r["instruction"] for r in train}
    assert len(asked) == len(train)
    assert not asked & {r["instruction"] for r in tier1 + tier2}
    assert len({r["instruction"] for r in tier1 + tier2}) == len(tier1) + len(tier2)
    text = "\n".join(r["text"] for r in pretrain)
    for rel, r in RELATIONS.items():
        for lang in ("en", "zh"):
            assert not set(r[lang]["train"]) & set(r[lang]["held"])
            # Held-out phrasings use words of the same relation's training phrasings only.
            known = units(" ".join(r[lang]["train"]), lang)
            foreign = units(" ".join(r[lang]["held"]), lang) - known
            assert not foreign, (rel, lang, foreign)
    for lang in ("en", "zh"):
        for tier in (tier1, tier2):
            assert sum(r["language"] == lang for r in tier) >= 300
        for f in all_facts:                 # the cloze statement was in the pre-training text
            assert fill(RELATIONS[f["relation"]][lang]["say"][0], f[lang]) in text
    for r in tier1 + tier2:                 # Chinese has its own punctuation
        assert r["language"] == "en" or not set(",?;:!.") & set(r["instruction"]), r
    known = {lang: units(" ".join(r["instruction"] + " " + r["output"] for r in train), lang)
             for lang in ("en", "zh")}
    for r in tier1 + tier2:
        assert units(r["instruction"] + " " + r["output"], r["language"]) <= known[r["language"]], r


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--out", default="examples/medical", type=pathlib.Path)
    out = ap.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(2024)
    all_facts = facts()
    train, tier1, tier2 = questions(all_facts, rng)
    pretrain = passages(all_facts, rng)
    check(all_facts, pretrain, train, tier1, tier2)
    for name, rows in (("pretrain", pretrain), ("train", train),
                       ("test_pairings", tier1), ("test_phrasings", tier2),
                       ("pairs", preferences(all_facts, train, random.Random(2025)))):
        p = out / f"{name}.jsonl"
        p.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
        print(f"{p}: {len(rows)} rows, {p.stat().st_size / 1e3:.0f} kB")
    print(f"{len(all_facts)} facts, {len(RELATIONS)} relations")


if __name__ == "__main__":
    main()
